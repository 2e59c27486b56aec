//! Clients: requests, replies, hellos and recalls on their way.

use bytes::Bytes;
use magma_core::engine::{Event, Origin};
use magma_core::ids::{Epoch, SessionId, Slot, SlotSeq, Stamp, VolcanoId};
use magma_core::key::Key;
use magma_core::wire::flare_protocol::{FromClient, Reply, Request, ToClient};
use rand::Rng;

use super::super::client::Wants;
use super::{ATTEMPT_MS, Due, Waiter, World};
use crate::invariants;

impl World {
    pub(super) fn poll(&mut self, client: usize) -> Result<(), String> {
        match self.clients[client].poll()? {
            Wants::Request => self.send_request(client),
            Wants::Pause(ms) => {
                let waits = self.clients[client].waits;
                self.at(ms, Due::Wake(client, waits));
            }
            Wants::Ended => self.working -= 1,
        }
        Ok(())
    }

    pub(super) fn send_request(&mut self, client: usize) {
        let Some((request, payload)) = self.clients[client].request(self.time) else {
            return;
        };
        let ids: Vec<VolcanoId> = self.volcanos.keys().copied().collect();
        let any = ids[self.rng.random_range(0..ids.len())];
        let owner = self.clients[client].lava.owner_of(request.key);
        // Now and then by way of another volcano, which passes it on.
        let to = match self.rng.random_bool(0.1) {
            true => any,
            false => owner.unwrap_or(any),
        };
        let delay = self.delay();
        let due = Due::Request {
            to,
            client,
            proxied: false,
            request: Box::new(request),
            payload,
        };
        self.at(delay, due);
        self.send_again(client, ATTEMPT_MS);
    }

    fn send_again(&mut self, client: usize, after: u64) {
        self.clients[client].alarm += 1;
        let alarm = self.clients[client].alarm;
        self.at(after, Due::SendAgain(client, alarm));
    }

    pub(super) fn request(
        &mut self,
        to: VolcanoId,
        client: usize,
        proxied: bool,
        request: Box<Request>,
        payload: Bytes,
    ) {
        let (slot, seq) = (request.slot, request.seq);
        // Who has its answer closes what is still on its way.
        if !self.clients[client].awaits(slot, seq) {
            return;
        }
        if !proxied {
            self.hello(to, client);
        }
        self.counter += 1;
        let token = self.counter;
        self.tokens.insert(token, Waiter { client, slot, seq });
        let origin = Origin { token, proxied };
        let event = Event::Request {
            origin,
            request,
            payload,
        };
        self.post(to, event);
    }

    pub(super) fn life(&self, id: VolcanoId) -> u64 {
        self.volcanos.get(&id).map_or(0, |volcano| volcano.life)
    }

    /// A client has a connection to a volcano, which may be new.
    pub(super) fn hello(&mut self, to: VolcanoId, client: usize) {
        let life = self.life(to);
        if self.clients[client].cache.connect(to, life) {
            let session = self.clients[client].session();
            self.post(to, Event::SessionHello(session));
            self.says_what_is_open((to, life), session);
            let epoch = self.clients[client].lava.epoch;
            self.says_lava_seen((to, life), session, epoch);
        }
    }

    /// Nothing is ever open here.
    fn says_what_is_open(&mut self, to: (VolcanoId, u64), session: SessionId) {
        let delay = self.delay();
        let message = FromClient::OpensHeld {
            number: 0,
            opens: Vec::new(),
            done: true,
        };
        let due = Due::FromClient {
            to,
            session,
            message,
        };
        self.at(delay, due);
    }

    /// A client hears of a recall, and answers it.
    pub(super) fn told(&mut self, from: (VolcanoId, u64), session: SessionId, message: ToClient) {
        let (keys, upto) = match message {
            ToClient::Recall { keys, upto } => (keys, upto),
            ToClient::Claim => return self.says_what_is_open(from, session),
            ToClient::LavaChanged(_) => return self.client_learns(session),
            _ => return,
        };
        let client = self.clients.iter_mut().find(|c| c.session() == session);
        let heard = client.is_some_and(|client| client.cache.recall(from.0, from.1, &keys, upto));
        if heard {
            let delay = self.delay();
            let message = FromClient::Recalled {
                keys,
                upto,
                opens: Vec::new(),
            };
            let due = Due::FromClient {
                to: from,
                session,
                message,
            };
            self.at(delay, due);
        }
    }

    /// A client takes the lava, and says so to all volcanos.
    fn client_learns(&mut self, session: SessionId) {
        let lava = self.agreement.lava().clone();
        let Some(client) = self.clients.iter_mut().find(|c| c.session() == session) else {
            return;
        };
        client.learn(&lava);
        let ids: Vec<VolcanoId> = self.volcanos.keys().copied().collect();
        for id in ids {
            self.says_lava_seen((id, self.life(id)), session, lava.epoch);
        }
    }

    fn says_lava_seen(&mut self, to: (VolcanoId, u64), session: SessionId, epoch: Epoch) {
        let delay = self.delay();
        let message = FromClient::LavaSeen(epoch);
        let due = Due::FromClient {
            to,
            session,
            message,
        };
        self.at(delay, due);
    }

    /// What clients may show under leases, with the volcano that granted it.
    pub fn leased(&self) -> impl Iterator<Item = (SessionId, Key, Stamp, VolcanoId)> {
        self.clients.iter().flat_map(|client| {
            let valid = client.cache.valid(self.time);
            valid.map(|(key, version, owner)| (client.session(), key, version, owner))
        })
    }

    pub(super) fn reply(
        &mut self,
        from: (VolcanoId, u64),
        client: usize,
        slot: Slot,
        seq: SlotSeq,
        reply: Reply,
        payload: Bytes,
    ) -> Result<(), String> {
        if !self.clients[client].awaits(slot, seq) {
            return Ok(());
        }
        if self.clients[client].take(from, reply, payload) {
            invariants::leases::check(self)?;
            return self.poll(client);
        }
        let pause = self.rng.random_range(5..200);
        self.send_again(client, pause);
        Ok(())
    }
}
