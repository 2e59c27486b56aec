//! Whether a history could be.
//!
//! * **Registers** are linearizable (Herlihy and Wing, 1990): each operation can be put at one moment
//!   between its begin and its end, so that every read gives the last value written. The search
//!   keeps all states that are possible after each event (as Wing and Gong, 1993, do depth first).
//!   A write whose outcome is not known may be put at any time after its begin, or nowhere.
//! * **Logs** have each line that was acknowledged once, each other one at most once, in an order that
//!   agrees with time; and whoever read a log saw a beginning of it, with all lines acknowledged before.
//! * **Names** that were made are there, those removed are not, and nothing else is.
//! * **Prizes** are won once, **locks** exclude.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::time::Duration;

use super::Shown;
use super::field::Field;
use super::work::{Did, Event, part, read_log};

/// Checks a history against what is there at the end. The error says what is wrong.
pub fn check(history: &[Event], field: &Field) -> Result<Shown, String> {
    for event in history {
        if let Did::Wrong(what) = &event.did {
            let at = event.began;
            return Err(format!("client {} saw at {at:?}: {what}", event.client));
        }
    }
    registers(history)?;
    let mut logs = BTreeMap::new();
    let listed = fs::read_dir(part(field.mount(0), "logs")).map_err(|e| format!("logs: {e}"))?;
    for entry in listed {
        let entry = entry.map_err(|error| format!("logs: {error}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let lines = read_log(&entry.path()).map_err(|error| format!("{name}: {error}"))?;
        logs.insert(
            name.clone(),
            lines.ok_or(format!("{name} has a part of a line"))?,
        );
    }
    check_logs(history, &logs)?;
    let listed = fs::read_dir(part(field.mount(0), "names")).map_err(|e| format!("names: {e}"))?;
    let mut there = BTreeSet::new();
    for entry in listed {
        let entry = entry.map_err(|error| format!("names: {error}"))?;
        there.insert(entry.file_name().to_string_lossy().into_owned());
    }
    names(history, &there)?;
    prizes(history)?;
    locks(history)?;
    let known = history.iter().filter(|event| event.known).count();
    let took = history.iter().map(|event| event.ended - event.began);
    Ok(Shown {
        known,
        unknown: history.len() - known,
        longest: took.max().unwrap_or_default(),
    })
}

/// Whether all registers are linearizable.
pub fn registers(history: &[Event]) -> Result<(), String> {
    let mut of: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
    for event in history {
        if let Did::Write(register, _) | Did::Read(register, _) = event.did {
            of.entry(register).or_default().push(event);
        }
    }
    for (register, events) in of {
        linearizable(&events).map_err(|why| format!("register {register}: {why}"))?;
    }
    Ok(())
}

/// An operation that has begun, as the search sees it.
#[derive(Clone, Copy, Debug)]
enum Op {
    Write(u64),
    Read(u64),
}

/// What a register may hold, with the operations under way that are done already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    value: u64,
    done: BTreeSet<usize>,
}

fn linearizable(events: &[&Event]) -> Result<(), String> {
    let read: HashSet<u64> = events
        .iter()
        .filter_map(|event| match event.did {
            Did::Read(_, value) => Some(value),
            _ => None,
        })
        .collect();
    // Begins and ends in the order of time; an end that is not known never comes. A write that nobody
    // has read, and that may never have been done, is put nowhere.
    let mut moments: Vec<(Duration, bool, usize)> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        if let Did::Write(_, value) = event.did
            && !event.known
            && !read.contains(&value)
        {
            continue;
        }
        moments.push((event.began, false, at));
        if event.known {
            moments.push((event.ended, true, at));
        }
    }
    moments.sort();
    let mut under_way: BTreeMap<usize, Op> = BTreeMap::new();
    let first = State {
        value: 0,
        done: BTreeSet::new(),
    };
    let mut states = HashSet::from([first]);
    for (time, ends, at) in moments {
        let event = events[at];
        if !ends {
            let op = match event.did {
                Did::Write(_, value) => Op::Write(value),
                Did::Read(_, value) => Op::Read(value),
                _ => continue,
            };
            under_way.insert(at, op);
            continue;
        }
        states = all_after(&states, &under_way, at);
        under_way.remove(&at);
        if states.is_empty() {
            return Err(format!(
                "client {} cannot have done {:?} from {:?} to {time:?} after what others did",
                event.client, event.did, event.began
            ));
        }
    }
    Ok(())
}

/// The states in which an operation that ends now was done, each without it.
fn all_after(
    states: &HashSet<State>,
    under_way: &BTreeMap<usize, Op>,
    ends: usize,
) -> HashSet<State> {
    let mut seen: HashSet<State> = states.clone();
    let mut open: Vec<State> = states.iter().cloned().collect();
    let mut after = HashSet::new();
    while let Some(state) = open.pop() {
        if state.done.contains(&ends) {
            let mut state = state;
            state.done.remove(&ends);
            after.insert(state);
            continue;
        }
        for (at, op) in under_way {
            if state.done.contains(at) {
                continue;
            }
            let value = match op {
                Op::Write(value) => *value,
                Op::Read(value) if *value == state.value => *value,
                Op::Read(_) => continue,
            };
            let mut done = state.done.clone();
            done.insert(*at);
            let next = State { value, done };
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    after
}

/// Whether logs agree with their end.
pub fn check_logs(history: &[Event], logs: &BTreeMap<String, Vec<u64>>) -> Result<(), String> {
    let nothing = Vec::new();
    let end = |log: &String| logs.get(log).unwrap_or(&nothing);
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (log, lines) in logs {
        for (place, line) in lines.iter().enumerate() {
            if places.insert(*line, place).is_some() {
                return Err(format!("line {line} is twice in {log}"));
            }
        }
    }
    let mut written: HashSet<u64> = HashSet::new();
    // Of each log: what was acknowledged, by when it was.
    let mut acked: HashMap<&String, Vec<(Duration, usize)>> = HashMap::new();
    for event in history {
        if let Did::Append(log, line) = &event.did {
            written.insert(*line);
            match places.get(line) {
                Some(place) if event.known => {
                    acked.entry(log).or_default().push((event.ended, *place))
                }
                None if event.known => return Err(format!("line {line} of {log} is lost")),
                Some(_) | None => {}
            }
        }
    }
    if let Some(line) = places.keys().find(|line| !written.contains(line)) {
        return Err(format!("nobody has written line {line}"));
    }
    for list in acked.values_mut() {
        list.sort();
        // The highest place of all that were acknowledged by then.
        let mut highest = 0;
        for (_, place) in list.iter_mut() {
            highest = highest.max(*place);
            *place = highest;
        }
    }
    let before = |log: &String, time: Duration| -> Option<usize> {
        let list = acked.get(log)?;
        let count = list.partition_point(|(ended, _)| *ended < time);
        Some(list.get(count.checked_sub(1)?)?.1)
    };
    for event in history {
        let highest = match &event.did {
            Did::Append(log, _) | Did::ReadLog(log, _) => before(log, event.began),
            _ => continue,
        };
        match &event.did {
            Did::Append(log, line) => {
                if let (Some(place), Some(highest)) = (places.get(line), highest)
                    && *place < highest
                {
                    return Err(format!(
                        "line {line} of {log} was appended after line {} and is before it",
                        end(log)[highest]
                    ));
                }
            }
            Did::ReadLog(log, lines) => {
                if !end(log).starts_with(lines) {
                    return Err(format!(
                        "client {} read in {log} what is no beginning of it",
                        event.client
                    ));
                }
                if highest.is_some_and(|highest| lines.len() <= highest) {
                    return Err(format!(
                        "client {} read {} lines of {log} at {:?}, when more were acknowledged",
                        event.client,
                        lines.len(),
                        event.began
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the names at the end are those that were made.
pub fn names(history: &[Event], there: &BTreeSet<String>) -> Result<(), String> {
    let mut must: BTreeSet<&String> = BTreeSet::new();
    let mut may: BTreeSet<&String> = BTreeSet::new();
    // Each name is one client's, which did one thing after the other.
    for event in history {
        match &event.did {
            Did::Create(name) => {
                may.insert(name);
                if event.known {
                    must.insert(name);
                }
            }
            Did::Remove(name) => {
                must.remove(name);
                if event.known {
                    may.remove(name);
                }
            }
            Did::Rename(old, new) => {
                must.remove(old);
                may.insert(new);
                if event.known {
                    may.remove(old);
                    must.insert(new);
                } else if there.contains(old) == there.contains(new) {
                    return Err(format!("of {old} and {new} one should be there"));
                }
            }
            _ => {}
        }
    }
    if let Some(name) = must.iter().find(|name| !there.contains(**name)) {
        return Err(format!("{name} is lost"));
    }
    match there.iter().find(|name| !may.contains(name)) {
        Some(name) => Err(format!("{name} is there, and should not be")),
        None => Ok(()),
    }
}

fn prizes(history: &[Event]) -> Result<(), String> {
    let mut won: BTreeMap<&String, usize> = BTreeMap::new();
    for event in history.iter().filter(|event| event.known) {
        if let Did::Prize(name, true) = &event.did
            && let Some(other) = won.insert(name, event.client)
        {
            let client = event.client;
            return Err(format!("{name} was made by clients {other} and {client}"));
        }
    }
    Ok(())
}

fn locks(history: &[Event]) -> Result<(), String> {
    let mut last: BTreeMap<usize, &Event> = BTreeMap::new();
    for event in history {
        let Did::Hold(lock) = event.did else { continue };
        if let Some(before) = last.get(&lock)
            && before.ended > event.began
        {
            return Err(format!(
                "lock {lock} was had by client {} from {:?} to {:?}, and by client {} from {:?}",
                before.client, before.began, before.ended, event.client, event.began
            ));
        }
        last.insert(lock, event);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(client: usize, began: u64, ended: u64, did: Did) -> Event {
        Event {
            client,
            began: Duration::from_millis(began),
            ended: Duration::from_millis(ended),
            did,
            known: true,
        }
    }

    fn unknown(event: Event) -> Event {
        Event {
            known: false,
            ..event
        }
    }

    #[test]
    fn registers_that_could_be_and_that_could_not() {
        let write = |client, began, ended, value| event(client, began, ended, Did::Write(0, value));
        let read = |client, began, ended, value| event(client, began, ended, Did::Read(0, value));
        let could = [
            vec![read(0, 0, 1, 0), write(1, 2, 3, 7), read(0, 4, 5, 7)],
            // Both orders of what overlaps.
            vec![write(1, 0, 9, 7), read(0, 1, 2, 0), read(0, 3, 4, 7)],
            vec![
                write(0, 0, 9, 7),
                write(1, 0, 9, 8),
                read(2, 1, 2, 8),
                read(2, 3, 4, 7),
            ],
            // Not known: done late, or never.
            vec![
                unknown(write(1, 0, 1, 7)),
                read(0, 2, 3, 0),
                read(0, 4, 5, 7),
            ],
            vec![
                unknown(write(1, 0, 1, 7)),
                read(0, 2, 3, 0),
                write(0, 4, 5, 8),
                read(0, 6, 7, 8),
            ],
        ];
        for history in could {
            assert_eq!(registers(&history), Ok(()), "{history:?}");
        }
        let could_not = [
            vec![write(1, 0, 1, 7), read(0, 2, 3, 0)],
            vec![read(0, 0, 1, 7)],
            vec![write(1, 0, 9, 7), read(0, 1, 2, 7), read(0, 3, 4, 0)],
            vec![write(0, 0, 1, 7), write(1, 2, 3, 8), read(2, 4, 5, 7)],
            vec![
                unknown(write(1, 0, 1, 7)),
                read(0, 2, 3, 7),
                read(0, 4, 5, 0),
            ],
        ];
        for history in could_not {
            assert!(registers(&history).is_err(), "{history:?}");
        }
    }

    #[test]
    fn logs_that_could_be_and_that_could_not() {
        let append = |began, ended, line| event(0, began, ended, Did::Append("l".into(), line));
        let read = |began, lines: &[u64]| {
            event(
                1,
                began,
                began + 1,
                Did::ReadLog("l".into(), lines.to_vec()),
            )
        };
        let end = |lines: &[u64]| BTreeMap::from([("l".to_owned(), lines.to_vec())]);
        let history = [
            append(0, 1, 5),
            read(2, &[5]),
            append(3, 4, 6),
            read(3, &[5]),
            read(5, &[5, 6]),
        ];
        assert_eq!(check_logs(&history, &end(&[5, 6])), Ok(()));
        for wrong in [&[5][..], &[6, 5], &[5, 6, 5], &[5, 6, 9]] {
            assert!(check_logs(&history, &end(wrong)).is_err(), "{wrong:?}");
        }
        let late = [append(0, 1, 5), append(2, 3, 6), read(4, &[5])];
        assert!(check_logs(&late, &end(&[5, 6])).is_err());
        let lost = [append(0, 1, 5), unknown(append(2, 3, 6))];
        for may in [&[5][..], &[5, 6]] {
            assert_eq!(check_logs(&lost, &end(may)), Ok(()));
        }
    }

    #[test]
    fn names_prizes_and_locks() {
        let name = |name: &str| name.to_owned();
        let there = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let history = [
            event(0, 0, 1, Did::Create(name("a"))),
            event(0, 2, 3, Did::Rename(name("a"), name("b"))),
            unknown(event(0, 4, 5, Did::Remove(name("b")))),
            event(1, 0, 1, Did::Create(name("c"))),
        ];
        for may in [&["c"][..], &["b", "c"]] {
            assert_eq!(names(&history, &there(may)), Ok(()));
        }
        for wrong in [&["b"][..], &["a", "c"], &["c", "d"]] {
            assert!(names(&history, &there(wrong)).is_err(), "{wrong:?}");
        }
        let won = |client| event(client, 0, 9, Did::Prize(name("p"), true));
        let lost = event(2, 0, 9, Did::Prize(name("p"), false));
        assert_eq!(prizes(&[won(0), lost.clone(), unknown(won(1))]), Ok(()));
        assert!(prizes(&[won(0), lost, won(1)]).is_err());
        let held = |client, began, ended| event(client, began, ended, Did::Hold(0));
        assert_eq!(
            locks(&[held(0, 0, 1), held(1, 1, 2), held(0, 2, 3)]),
            Ok(())
        );
        assert!(locks(&[held(0, 0, 3), held(1, 1, 2)]).is_err());
    }
}
