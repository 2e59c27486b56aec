//! The log, and the debug channels that open it further at run time.
//!
//! A channel is a letter, as the original's option `-D` has them, and a `tracing` target. An
//! event of level DEBUG or TRACE is logged only while its channel is open; INFO and above
//! always are. So debugging costs nothing until somebody asks for it:
//!
//! ```
//! # let (key, op) = ("4209", "GetAttr");
//! tracing::debug!(target: "magma::f", key, op, "served");
//! ```

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use magma_core::time::Timestamp;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::LevelFilter;
use tracing_core::subscriber::Interest;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, Layer as FmtLayer};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::utc;

/// One debug channel.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Its letter.
    pub letter: char,
    /// The target of its events.
    pub target: &'static str,
    /// What it shows.
    pub meaning: &'static str,
}

const fn channel(letter: char, target: &'static str, meaning: &'static str) -> Channel {
    Channel {
        letter,
        target,
        meaning,
    }
}

/// Every channel. The letters are the original's; `f`, `s` and `V` mean what its page says.
pub const CHANNELS: [Channel; 16] = [
    channel('B', "magma::B", "bulk: every key that moves or is copied"),
    channel('b', "magma::b", "balancer: load, plans, slices that move"),
    channel('c', "magma::c", "console: sessions and commands"),
    channel('d', "magma::d", "directories: entries, links, lookups"),
    channel('F', "magma::F", "flare protocol: every request and reply"),
    channel('f', "magma::f", "flare operations"),
    channel('g', "magma::g", "agreement: proposals, changes of the lava"),
    channel('m', "magma::m", "mounts: sessions, leases, locks, opens"),
    channel('n', "magma::n", "node protocol: join, heartbeats, status"),
    channel('r', "magma::r", "replication: shipping, copies, filling"),
    channel('s', "magma::s", "SQL queries and commits"),
    channel('u', "magma::u", "UDP and QUIC: connections, streams"),
    channel('V', "magma::V", "verbose: all of these at once"),
    channel('v', "magma::v", "volcano: phases, actors, restarts"),
    channel('x', "magma::x", "transactions across volcanos"),
    channel('z', "magma::z", "storage: content files, syncs, recovery"),
];

const _: () = assert!(CHANNELS.len() <= 32);

/// A set of channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(u32);

/// A letter that is no channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no debug channel {}: choose from {}", .0.escape_default(), letters())]
pub struct BadChannel(pub char);

fn letters() -> String {
    CHANNELS.iter().map(|channel| channel.letter).collect()
}

impl Mask {
    /// No channel.
    pub const NONE: Mask = Mask(0);

    /// From letters, as they follow `-D`.
    pub fn parse(letters: &str) -> Result<Mask, BadChannel> {
        letters.chars().try_fold(Mask::NONE, |mask, letter| {
            let bit = bit_of(letter).ok_or(BadChannel(letter))?;
            Ok(mask.with(Mask(bit)))
        })
    }

    /// These channels and those.
    pub fn with(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }

    /// These channels but not those.
    pub fn without(self, other: Mask) -> Mask {
        Mask(self.0 & !other.0)
    }

    /// Whether a channel is open, by itself or through `V`.
    pub fn shows(self, letter: char) -> bool {
        self.is_verbose() || bit_of(letter).is_some_and(|bit| self.0 & bit != 0)
    }

    /// The letters, in the order of [`CHANNELS`].
    pub fn letters(self) -> String {
        CHANNELS
            .iter()
            .zip(0..)
            .filter(|(_, at)| self.0 & (1 << at) != 0)
            .map(|(channel, _)| channel.letter)
            .collect()
    }

    fn is_verbose(self) -> bool {
        bit_of('V').is_some_and(|bit| self.0 & bit != 0)
    }
}

fn bit_of(letter: char) -> Option<u32> {
    let at = CHANNELS
        .iter()
        .position(|channel| channel.letter == letter)?;
    Some(1 << at)
}

/// The channels that are open now; the switch that [`DebugFilter`] obeys.
#[derive(Debug, Default)]
pub struct Switch(AtomicU32);

impl Switch {
    /// All closed.
    pub const fn new() -> Switch {
        Switch(AtomicU32::new(0))
    }

    /// What is open.
    pub fn mask(&self) -> Mask {
        Mask(self.0.load(Ordering::Relaxed))
    }

    /// Opens channels besides those that are open.
    pub fn open(&self, channels: Mask) {
        self.0.fetch_or(channels.0, Ordering::Relaxed);
        tracing_core::callsite::rebuild_interest_cache();
    }

    /// Closes channels.
    pub fn close(&self, channels: Mask) {
        self.0.fetch_and(!channels.0, Ordering::Relaxed);
        tracing_core::callsite::rebuild_interest_cache();
    }
}

static SWITCH: Switch = Switch::new();

/// The switch of this process.
pub fn switch() -> &'static Switch {
    &SWITCH
}

/// Lets INFO and above pass, and DEBUG and TRACE of the channels that are open.
///
/// The answer is cached at each place in the code that logs, and asked for again when the
/// switch moves: an event of a closed channel costs one load.
#[derive(Clone, Copy, Debug)]
pub struct DebugFilter(&'static Switch);

impl DebugFilter {
    /// A filter that obeys this switch.
    pub fn new(switch: &'static Switch) -> DebugFilter {
        DebugFilter(switch)
    }

    fn lets_pass(&self, metadata: &Metadata<'_>) -> bool {
        let mask = self.0.mask();
        let level = *metadata.level();
        // The consensus library tells every step of an election at INFO, and ten times a second, as
        // WARN and as ERROR, that a volcano cannot be reached: what a person must know we say
        // ourselves.
        if level <= Level::INFO && metadata.target().starts_with("openraft") {
            return mask.shows('n');
        }
        if level <= Level::INFO || mask == Mask::NONE {
            return level <= Level::INFO;
        }
        match metadata.target().strip_prefix("magma") {
            Some(rest) => match single_letter(rest) {
                Some(letter) => mask.shows(letter),
                None => mask.is_verbose(),
            },
            // Libraries beneath: only those of the transport, and never their TRACE, which
            // tells of every packet.
            None => {
                let transport = ["quinn", "rustls"]
                    .iter()
                    .any(|library| metadata.target().starts_with(library));
                transport && level == Level::DEBUG && mask.shows('u')
            }
        }
    }
}

/// The letter of `::x`.
fn single_letter(rest: &str) -> Option<char> {
    let mut letters = rest.strip_prefix("::")?.chars();
    let letter = letters.next()?;
    letters.next().is_none().then_some(letter)
}

impl<S: Subscriber> Layer<S> for DebugFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.lets_pass(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets_pass(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.0.mask() == Mask::NONE {
            LevelFilter::INFO
        } else {
            LevelFilter::TRACE
        })
    }
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the log of this process is set up already")]
pub struct InstalledAlready;

/// Sets up the log of this process on its standard error, with these channels open.
pub fn install(mask: Mask) -> Result<(), InstalledAlready> {
    let log = FmtLayer::default()
        .with_ansi(false)
        // Otherwise a closed standard error makes each event panic.
        .log_internal_errors(false)
        .event_format(LineFormat {
            journal: stderr_is_the_journal(),
        })
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(DebugFilter::new(&SWITCH))
        .with(log)
        .try_init()
        .map_err(|_| InstalledAlready)?;
    SWITCH.open(mask);
    Ok(())
}

/// Whether standard error is the very stream that systemd has announced: the variable is
/// inherited by children whose standard error goes elsewhere (`systemd.exec(5)`).
fn stderr_is_the_journal() -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr().as_fd()) else {
        return false;
    };
    announced == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// One event a line: `<6>magma::n: text field=value` in the journal, elsewhere
/// `2026-01-02T03:04:05.678Z INFO  magma::n: text field=value`.
#[derive(Clone, Copy, Debug)]
struct LineFormat {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if self.journal {
            write!(writer, "<{}>", priority(*metadata.level()))?;
        } else {
            utc::write_rfc3339(&mut writer, wall_clock())?;
            write!(writer, " {:5} ", metadata.level())?;
        }
        write!(writer, "{}: ", metadata.target())?;
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        write_one_line(&mut writer, &fields)?;
        writeln!(writer)
    }
}

/// The priority of `sd-daemon(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the log is a shell: it shows the wall clock and decides nothing by it"
)]
fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(Timestamp::default(), |since| {
        Timestamp(since.as_secs() as i64, since.subsec_nanos())
    })
}

/// Names and messages come from others: a newline in one must not look like an event of its own.
fn write_one_line(writer: &mut impl fmt::Write, text: &str) -> fmt::Result {
    text.chars().try_for_each(|c| {
        if c.is_control() {
            write!(writer, "{}", c.escape_default())
        } else {
            writer.write_char(c)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn take(&self) -> String {
            let bytes = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
            String::from_utf8(bytes).expect("text")
        }
    }

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .expect("not poisoned")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Sink;
        fn make_writer(&'a self) -> Sink {
            self.clone()
        }
    }

    fn say_everything() {
        tracing::info!("always");
        tracing::debug!(target: "magma::f", key = 7, "flare");
        tracing::trace!(target: "magma::F", "protocol");
        tracing::debug!("module");
        tracing::debug!(target: "quinn::connection", "packets");
        tracing::trace!(target: "quinn::connection", "every packet");
        tracing::debug!(target: "mio::poll", "never");
        tracing::info!(target: "openraft::engine", "a step");
    }

    #[test]
    fn channels_open_and_close_while_it_runs() {
        let switch: &'static Switch = Box::leak(Box::default());
        let sink = Sink::default();
        let log = FmtLayer::default()
            .with_ansi(false)
            .event_format(LineFormat { journal: true })
            .with_writer(sink.clone());
        let subscriber = tracing_subscriber::registry()
            .with(DebugFilter::new(switch))
            .with(log);
        let always = "<6>magma_actors::debug::tests: always\n";
        tracing::subscriber::with_default(subscriber, || {
            say_everything();
            assert_eq!(sink.take(), always);

            switch.open(Mask::parse("f").expect("a channel"));
            say_everything();
            assert_eq!(sink.take(), format!("{always}<7>magma::f: flare key=7\n"));

            switch.open(Mask::parse("u").expect("a channel"));
            switch.close(Mask::parse("f").expect("a channel"));
            say_everything();
            assert_eq!(
                sink.take(),
                format!("{always}<7>quinn::connection: packets\n")
            );

            switch.open(Mask::parse("V").expect("a channel"));
            say_everything();
            let said = sink.take();
            assert_eq!(said.lines().count(), 6);
            assert!(said.contains("<6>openraft::engine: a step"), "{said}");

            switch.close(Mask::parse("Vu").expect("channels"));
            say_everything();
            assert_eq!(sink.take(), always);
        });
    }

    #[test]
    fn letters_and_masks() {
        let mask = Mask::parse("sf").expect("channels");
        assert_eq!(mask.letters(), "fs");
        assert!(mask.shows('f') && !mask.shows('F'));
        assert!(Mask::parse("V").expect("a channel").shows('z'));
        assert_eq!(mask.without(mask), Mask::NONE);
        assert_eq!(Mask::parse("fq"), Err(BadChannel('q')));
        assert_eq!(
            BadChannel('\u{1b}').to_string(),
            "there is no debug channel \\u{1b}: choose from BbcdFfgmnrsuVvxz"
        );
        for channel in CHANNELS {
            assert_eq!(channel.target, format!("magma::{}", channel.letter));
        }
    }

    #[test]
    fn one_event_one_line() {
        let mut line = String::new();
        write_one_line(&mut line, "name\n<3>forged\x1b[2J").expect("a String takes it");
        assert_eq!(line, "name\\n<3>forged\\u{1b}[2J");
    }
}
