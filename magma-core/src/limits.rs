//! Every bound of Magma in one file, asserted against each other at compile time.
//!
//! A queue, cache, table or message without a line here is a bug.

/// Longest name of a directory entry in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;
/// Longest absolute path in bytes, without the final NUL (`PATH_MAX` of Linux is 4096 with it).
pub const PATH_MAX: usize = 4095;
/// Longest target of a symbolic link in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Longest name of an extended attribute in bytes (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Entries of an access control list: the kernel asks FUSE for no more than a page.
pub const ACL_ENTRIES_MAX: usize = 510;
/// Largest value of an extended attribute in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 64 * 1024;
/// Largest list of extended attribute names of one flare in bytes (`XATTR_LIST_MAX`).
pub const XATTR_LIST_MAX: usize = 64 * 1024;
/// Most hard links of one flare (as ext4 has it).
pub const LINK_MAX: u32 = 65_000;
/// Most supplementary groups of a credential (`NGROUPS_MAX` is 65536; we carry fewer).
pub const GROUPS_MAX: usize = 1024;

/// Contents up to this many bytes live in the store's row instead of a content file.
pub const INLINE_MAX: u64 = 8 * 1024;
/// Largest content that one read or write operation carries, in bytes.
pub const IO_MAX: usize = 1024 * 1024;
/// Content bytes written to one flare before its write-back is started.
pub const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;
/// Ranges that wait for their write-back to be started.
pub const WRITEBACK_QUEUE: usize = 256;
/// Content files that a store keeps open.
pub const CONTENT_FDS: usize = 256;
/// Ranges of bad content that other volcanos are asked for at a time.
pub const REPAIRS_UNDER_WAY: usize = 256;
/// How long a volcano is waited for that was asked for content, in milliseconds.
pub const REPAIR_ASK_MS: u64 = 2_000;
/// How often others are asked for content that changes all the time.
pub const REPAIR_TRIES: u32 = 16;
/// Bad blocks of content that are remembered until somebody asks another volcano for them.
pub const BAD_BLOCKS_KEPT: usize = 1024;
/// So many epochs lie between the last known one of a generation and the first of the next.
pub const TAKEOVER_EPOCHS: u64 = 1 << 20;
/// Content that a scrub reads at once, in bytes.
pub const SCRUB_PIECE: usize = 256 * 1024;
/// Content that a scrub reads in a second, in bytes: little enough that nobody notices.
pub const SCRUB_RATE: u64 = 8 * 1024 * 1024;
/// The same when somebody has asked for it.
pub const SCRUB_RATE_NOW: u64 = 128 * 1024 * 1024;
/// From the beginning of one scrub to that of the next, in seconds: a week.
pub const SCRUB_EVERY_SECS: u64 = 7 * 24 * 3600;
/// Memory for pages that SQLite caches, in KiB.
pub const PAGE_CACHE_KIB: usize = 12 * 1024;
/// Operations after which SQLite commits what the redo log holds: so many are applied again after
/// a crash, and that many changes of a page cost one write of it.
pub const REDO_OPERATIONS: u64 = 1024;
/// Bytes of the redo log after which SQLite commits what it holds.
pub const REDO_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes that the redo log may hold while SQLite cannot commit, as its disk is full; beyond them
/// nothing more is taken.
pub const REDO_BYTES_MAX: u64 = 16 * REDO_BYTES;
/// Length of the redo log from which on it begins anew, in bytes: SQLite's own log is put on the
/// disk each time.
pub const REDO_ANEW_BYTES: u64 = 8 * 1024 * 1024;
/// Pages in SQLite's write-ahead log after which a commit moves them to the database.
pub const WAL_CHECKPOINT_PAGES: u32 = 4000;
/// Bytes that SQLite's write-ahead log keeps on the disk after a burst.
pub const WAL_KEPT_BYTES: u64 = 64 * 1024 * 1024;
/// Content bytes that one reading of the journal returns (the first record whatever it holds).
pub const JOURNAL_READ_BYTES: usize = FRAME_PAYLOAD_MAX;

/// Largest header (MessagePack part) of one frame in bytes.
pub const FRAME_HEADER_MAX: usize = 4 * 1024 * 1024;
/// Largest payload (raw part) of one frame in bytes.
pub const FRAME_PAYLOAD_MAX: usize = 8 * 1024 * 1024;
/// Payloads above this many bytes travel on a stream of their own.
pub const BULK_THRESHOLD: usize = 16 * 1024;
/// Most operations in one request.
pub const OPS_PER_REQUEST_MAX: usize = 8;
/// Most flares asked for in one batched attribute request.
pub const ATTR_BATCH_MAX: usize = 512;
/// Most bytes of entries in one directory listing reply.
pub const READDIR_BYTES_MAX: usize = 256 * 1024;

/// Slots of a session: the most requests that it has outstanding.
pub const SLOTS_PER_SESSION: u16 = 1024;
/// Most sessions (mounts and tools) of a lava network.
pub const SESSIONS_MAX: usize = 4096;
/// Most volcanos of a lava network.
pub const VOLCANOS_MAX: usize = 1024;
/// Most slices of a lava network.
pub const SLICES_MAX: usize = 16 * 1024;
/// Most copies beside the owner that a slice may be asked to have.
pub const REDUNDANCY_MAX: u8 = 7;
/// Most copies of a slice at a time: the wanted ones, those that they replace until they are in
/// sync, and one more for each that has just become so.
pub const COPIES_MAX: usize = 16;
/// Longest host name of a volcano in bytes.
pub const HOST_NAME_MAX: usize = 253;
/// Longest nickname of a volcano in bytes.
pub const NICK_MAX: usize = 63;
/// Longest label of a session in bytes; what is longer is cut.
pub const SESSION_LABEL_MAX: usize = 255;
/// Entries of the agreement's log that are kept.
pub const AGREEMENT_ENTRIES: u64 = 1000;
/// Entries of the agreement's log that are kept with the whole lava that they led to.
pub const AGREEMENT_LAVAS: u64 = 16;
/// Largest size of a file, the kernel's own bound (`MAX_LFS_FILESIZE`).
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// Most events that wait for the engine of a volcano.
pub const ENGINE_QUEUE: usize = 4096;
/// Most events that the engine puts into one transaction.
pub const ENGINE_BATCH: usize = 128;
/// Most requests that wait inside the engine (for a copy, a lease or a transaction).
pub const ENGINE_PARKED_MAX: usize = 16 * 1024;
/// Flare rows that the engine caches.
pub const FLARE_CACHE: usize = 64 * 1024;
/// Longest time that a request may wait inside the engine, in milliseconds.
pub const PARK_LIMIT_MS: u64 = 8_000;
/// Calls that one connection may have outstanding.
pub const CALLS_PER_CONNECTION: usize = 2048;
/// Frames that may wait to be sent on one lane of a connection.
pub const SEND_QUEUE: usize = 4096;
/// Connections that one endpoint accepts.
pub const CONNECTIONS_MAX: usize = 4096;

/// Largest hello and welcome of a connection in bytes.
pub const HELLO_MAX: usize = 64 * 1024;
/// Handshakes that one endpoint has under way; peers beyond it are turned away.
pub const HANDSHAKES_MAX: usize = 256;
/// Handshakes under way beyond which a newcomer must first prove its address (QUIC retry).
pub const HANDSHAKES_UNPROVEN: usize = 32;
/// Bytes of bulk messages of one connection that wait to be sent.
pub const BULK_OUT_BYTES: usize = 2 * SHIP_WINDOW_BYTES;
/// Bytes of bulk messages of one connection that have partly arrived.
pub const BULK_IN_BYTES: usize = 4 * SHIP_WINDOW_BYTES;

/// Records kept in the journal of a slice.
pub const JOURNAL_RECORDS: u64 = 20_000;
/// Operations with so many bytes of content go to the copies before their owner has written them.
pub const SHIP_EARLY_BYTES: usize = 64 * 1024;
/// Starts that a directory remembers, and shows to other volcanos.
pub const STARTS_KEPT: usize = 64;
/// Bytes of records that an owner keeps in flight towards one copy.
pub const SHIP_WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of one batch of keys sent to a copy that is being filled.
pub const COPY_BATCH_BYTES: usize = 1024 * 1024;
/// What a copy that is being filled gets in a second, in bytes: as much as a gigabit network.
pub const FILL_RATE: u64 = 100 * 1024 * 1024;
/// Rows or operations in one message between volcanos, in bytes of its header by estimate: a quarter of
/// what a header may have.
pub const RECORDS_BYTES: usize = FRAME_HEADER_MAX / 4;

/// Keys of which one page of `magma fsck` shows the rows: a page is read on the engine's thread.
pub const FSCK_PAGE_KEYS: usize = 128;
/// Entries of one directory in one page of `magma fsck`; a page ends with the directory in which
/// it reaches that many.
pub const FSCK_PAGE_ENTRIES: usize = 2048;
/// Links of one flare that a page of `magma fsck` names; of more they are counted only.
pub const FSCK_LINKS_MAX: usize = 1024;
/// Links in one page of `magma fsck`; it ends with the flare in which it reaches that many.
pub const FSCK_PAGE_LINKS: usize = 2048;
/// Content bytes of one digest of `magma fsck`.
pub const FSCK_CONTENT_BYTES: usize = IO_MAX;
/// Entries of a directory that a repair counts in one go, on the engine's thread.
pub const FSCK_COUNT_MAX: u64 = 1024 * 1024;
/// Findings that `magma fsck` looks at again and shows; it says so when there are more.
pub const FSCK_FINDINGS_MAX: usize = 10_000;
/// Directories above one another that `magma fsck` follows upwards.
pub const FSCK_DEPTH_MAX: usize = 100_000;

/// Times that a request may be passed on before the loop is an error.
pub const HOPS_MAX: u8 = 4;
/// Candidates tried when the birth key of a path is taken.
pub const BIRTH_TRIES: u32 = 64;

/// Console sessions of one volcano.
pub const CONSOLE_SESSIONS: usize = 32;
/// Longest line that the console reads, in bytes.
pub const CONSOLE_LINE_MAX: usize = 8 * 1024;
/// Bytes of a file that `cat` shows on the console.
pub const CONSOLE_CAT_MAX: u64 = 1024 * 1024;
/// A console session without a line for this long is closed, in milliseconds.
pub const CONSOLE_IDLE_MS: u64 = 30 * 60 * 1000;
/// A console session without a line for this long gives way when all are taken, in milliseconds.
pub const CONSOLE_YIELD_MS: u64 = 60 * 1000;
/// A console peer that takes nothing of what waits for it for this long is let go, in milliseconds.
pub const CONSOLE_WRITE_MS: u64 = 30 * 1000;
/// Output of a console session that is gathered before it is sent, in bytes.
pub const CONSOLE_OUTPUT_BYTES: usize = 16 * 1024;
/// Lines that a console peer may send ahead while a command runs.
pub const CONSOLE_TYPE_AHEAD: usize = 16;
/// Bytes that a console peer may send without ending a line before it is let go.
pub const CONSOLE_WASTE_MAX: usize = 1024 * 1024;
/// Content bytes that `cat` asks for at a time on the console.
pub const CONSOLE_READ_BYTES: u32 = 16 * 1024;
/// Bytes of entries that `ls` asks for at a time on the console.
pub const CONSOLE_PAGE_BYTES: u32 = 64 * 1024;
/// Requests that one console command has outstanding.
pub const CONSOLE_REQUESTS: usize = 8;
/// Times that the console sends a request that only has to be repeated.
pub const CONSOLE_TRIES: u32 = 5;
/// Symbolic links followed on one walk (`ELOOP` of Linux comes after 40).
pub const SYMLINK_HOPS_MAX: usize = 40;

/// Restarts of one actor inside [`RESTART_WINDOW_MS`] that end the process in order.
pub const RESTARTS_MAX: usize = 8;
/// The window in which restarts are counted, in milliseconds.
pub const RESTART_WINDOW_MS: u64 = 60_000;
/// An actor, the engine or the agreement that answers nothing for this long does not live, in
/// milliseconds: a volcano with such a one leaves its service manager's watchdog unfed.
pub const LIVENESS_MS: u64 = 10_000;
/// Largest file of options of `magmad`, in bytes.
pub const CONFIG_FILE_MAX: u64 = 64 * 1024;

/// Validity of a lease in milliseconds, counted by the client from sending the request.
pub const LEASE_MS: u64 = 5_000;
/// What the owner adds to [`LEASE_MS`] before it counts a lease as expired.
pub const LEASE_GRACE_MS: u64 = LEASE_MS / 10 + 100;
/// Leases that an owner has granted at a time.
pub const LEASES_MAX: usize = 256 * 1024;
/// Leases of one session that an owner has granted at a time.
pub const LEASES_PER_SESSION: usize = 64 * 1024;
/// A recall without answer is told again after this long, in milliseconds.
pub const RECALL_AGAIN_MS: u64 = 500;
/// Ranges that are locked in one flare.
pub const LOCKS_PER_FLARE: usize = 4096;
/// Ranges that are locked at one owner.
pub const LOCKS_MAX: usize = 256 * 1024;
/// Requests that wait for a lock of one flare.
pub const LOCK_WAITS_PER_FLARE: usize = 1024;
/// Requests that wait for a lock at one owner.
pub const LOCK_WAITS_MAX: usize = 16 * 1024;
/// Steps of one search for a ring of waits; a larger graph is not searched.
pub const LOCK_GRAPH_STEPS: usize = 64 * 1024;
/// A client asks again for a lock that it waits for after this long, in milliseconds.
pub const LOCK_ASK_AGAIN_MS: u64 = 1_000;
/// A wait for a lock that its client has not asked for again for this long has ended, in
/// milliseconds.
pub const LOCK_WAIT_SILENT_MS: u64 = 15_000;
/// After a start, sessions that have not said which locks they hold are waited for this long, in
/// milliseconds.
pub const LOCK_CLAIM_MS: u64 = LEASE_MS + LEASE_GRACE_MS;
/// Answers of sessions that have ended are looked for this often, in milliseconds.
pub const REPLIES_LOOK_MS: u64 = 60_000;
/// Of these, so many are forgotten in one round.
pub const REPLIES_AT_A_TIME: usize = 256;
/// Locks that a client claims in one message.
pub const LOCK_CLAIM_BATCH: usize = 4096;
/// Volcanos that a search for a ring of waits goes through.
pub const LOCK_PROBE_HOPS: u8 = 16;
/// Sessions that one step of such a search asks.
pub const LOCK_PROBE_FAN: usize = 16;
/// Steps of such searches that an owner takes between two ticks.
pub const LOCK_PROBES_PER_TICK: usize = 1024;
/// How often a mount looks whether a process that waits for a lock has a signal, in milliseconds.
pub const LOCK_SIGNAL_POLL_MS: u64 = 25;
/// How long a process that is interrupted waits for the owner to hear of it, in milliseconds.
pub const LOCK_CANCEL_MS: u64 = 300;
/// How long close(2) waits until the owner has released the locks of a process, in milliseconds.
pub const LOCK_CLOSE_MS: u64 = 1_000;
/// Flares of which a client remembers something under leases.
pub const CLIENT_CACHE_FLARES: usize = 32 * 1024;
/// Names that a volcano reads from its store for one `print cache`.
pub const CACHED_NAMES_READ: usize = 1024;
/// Names that a client remembers under leases on their directories.
pub const CLIENT_CACHE_NAMES: usize = 128 * 1024;
/// A client that holds leases and was not used for this long lets them run out, in milliseconds.
pub const CLIENT_CACHE_IDLE_MS: u64 = 60_000;
/// A session that is not heard of for this long has ended, in milliseconds.
pub const SESSION_MS: u64 = 10_000;
/// Flares that an owner remembers as open at a time.
pub const OPENS_MAX: usize = 1024 * 1024;
/// Open flares that a client names in one message.
pub const OPENS_CLAIM_BATCH: usize = 4096;
/// Closes wait this long for others that can be told with them, in milliseconds.
pub const CLOSE_BATCH_MS: u64 = 100;
/// How often a mount says that it is there, in milliseconds.
pub const SESSION_RENEW_MS: u64 = 2_000;
/// Silent sessions that are ended in one go: each costs those who vote a flush of the disk.
pub const SESSION_ENDS_AT_ONCE: usize = 16;
/// Heartbeat between volcanos in milliseconds.
pub const HEARTBEAT_MS: u64 = 200;
/// For how long from sending a heartbeat nobody takes over what a volcano owns, in milliseconds.
pub const VOLCANO_LEASE_MS: u64 = 1_000;
/// A volcano not heard of for this long is dead: its lease and a tenth more, in milliseconds.
pub const VOLCANO_SILENT_MS: u64 = VOLCANO_LEASE_MS + VOLCANO_LEASE_MS / 10;
/// Who leads gives leases only so long after a majority has said that it leads, in milliseconds.
/// Less than twice [`ELECTION_MS`]: nobody else is elected before that.
pub const LEADER_SURE_MS: u64 = 600;
/// Who follows waits at least so long, and at most twice as long, before an election, in milliseconds;
/// and votes for nobody before twice as long after it has heard the leader.
pub const ELECTION_MS: u64 = 400;
/// Who begins to lead takes volcanos for heard of this long ago, in milliseconds: leases of the leader
/// before ran out at most [`LEADER_SURE_MS`] and a lease after its last majority, and of that one
/// nobody who votes has heard for twice [`ELECTION_MS`].
pub const LEADER_HEAD_START_MS: u64 = 2 * ELECTION_MS - LEADER_SURE_MS;
/// Who watches the volcanos and has not looked for this long was stopped itself, in milliseconds.
pub const WATCH_AWAKE_MS: u64 = VOLCANO_LEASE_MS / 2;
/// Furthest that a received clock may move ours past our own wall clock, in milliseconds.
pub const CLOCK_SKEW_MAX_MS: u64 = 1_000;

/// Longest time for which a client repeats a request before the program is told, in
/// milliseconds (a mount option changes it).
pub const CLIENT_PATIENCE_MS: u64 = 30_000;
/// Longest wait of a client for one answer before it asks again, in milliseconds: over
/// [`PARK_LIMIT_MS`], so that a volcano gives up first and says so.
pub const CLIENT_ATTEMPT_MS: u64 = 10_000;
/// After so long without a reply a client asks another volcano whether the owner still is one, and so
/// on as long as it waits.
pub const CLIENT_SILENT_MS: u64 = 400;
/// Longest wait of a client for a connection, in milliseconds.
pub const CLIENT_DIAL_MS: u64 = 2_000;
/// How long a client leaves a volcano alone that it could not reach, in milliseconds.
pub const CLIENT_REDIAL_MS: u64 = 500;
/// First pause of a client before it repeats a request, in milliseconds.
pub const BACKOFF_MIN_MS: u64 = 5;
/// Longest pause of a client before it repeats a request, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 200;
/// Pause before a request is repeated whose program was told of a timeout already, in
/// milliseconds.
pub const SETTLE_PAUSE_MS: u64 = 2_000;
/// Content bytes of requests that a client has outstanding.
pub const CLIENT_BYTES_IN_FLIGHT: usize = 256 * 1024 * 1024;
/// Names whose flares a client remembers for the next unlink or rename.
pub const NAME_HINTS: usize = 4096;
/// Times that a client looks a name up again because it moved under the operation.
pub const STALE_TRIES: u32 = 16;
/// Longest path that a birth key is made of, in bytes; trees may be deeper than `PATH_MAX`.
pub const BIRTH_PATH_MAX: usize = 64 * 1024;
/// Callers whose groups a mount remembers.
pub const GROUPS_CACHE: usize = 4096;
/// How long a mount remembers the groups of a caller, in milliseconds.
pub const GROUPS_CACHE_MS: u64 = 1_000;
/// Bytes of entries that a mount asks for at a time.
pub const READDIR_BATCH: u32 = 64 * 1024;
/// Background requests that the kernel may have outstanding at a mount.
pub const FUSE_BACKGROUND: u16 = 256;

const _: () = assert!(INLINE_MAX as usize <= IO_MAX);
const _: () = assert!(REDO_BYTES < REDO_ANEW_BYTES && REDO_ANEW_BYTES < REDO_BYTES_MAX);
const _: () = assert!(IO_MAX <= FRAME_PAYLOAD_MAX);
const _: () = assert!(COPY_BATCH_BYTES + IO_MAX <= FRAME_PAYLOAD_MAX);
const _: () = assert!(SYMLINK_MAX as u64 <= INLINE_MAX);
const _: () = assert!(XATTR_VALUE_MAX < FRAME_HEADER_MAX);
const _: () = assert!(READDIR_BYTES_MAX < FRAME_HEADER_MAX);
const _: () = assert!(ENGINE_BATCH <= ENGINE_QUEUE);
const _: () = assert!(2 * (REDUNDANCY_MAX as usize) < COPIES_MAX);
const _: () = assert!(AGREEMENT_LAVAS <= AGREEMENT_ENTRIES);
const _: () = assert!(BULK_THRESHOLD < IO_MAX);
const _: () = assert!(SLOTS_PER_SESSION as usize <= CALLS_PER_CONNECTION);
const _: () = assert!(CONSOLE_LINE_MAX < CONSOLE_WASTE_MAX);
const _: () = assert!(CONSOLE_LINE_MAX > PATH_MAX);
const _: () = assert!(CONSOLE_YIELD_MS <= CONSOLE_IDLE_MS);
const _: () = assert!(CONSOLE_READ_BYTES as usize <= IO_MAX);
const _: () = assert!(CONSOLE_PAGE_BYTES as usize <= READDIR_BYTES_MAX);
const _: () = assert!(HEARTBEAT_MS * 5 < VOLCANO_SILENT_MS + HEARTBEAT_MS);
const _: () = assert!(CLIENT_ATTEMPT_MS > PARK_LIMIT_MS);
// An operation that waits for a lease to run out is not turned away before.
const _: () = assert!(LEASE_MS + LEASE_GRACE_MS + RECALL_AGAIN_MS < PARK_LIMIT_MS);
const _: () = assert!(LOCK_CLAIM_MS < PARK_LIMIT_MS);
const _: () = assert!(LOCK_ASK_AGAIN_MS + CLIENT_ATTEMPT_MS < LOCK_WAIT_SILENT_MS);
const _: () = assert!(LOCKS_PER_FLARE <= LOCKS_MAX);
const _: () = assert!(LOCK_WAITS_PER_FLARE <= LOCK_WAITS_MAX);
// At most 200 bytes each.
const _: () = assert!(LOCK_CLAIM_BATCH * 200 < FRAME_HEADER_MAX);
const _: () = assert!(OPENS_CLAIM_BATCH * 100 < FRAME_HEADER_MAX);
const _: () = assert!(CLIENT_CACHE_FLARES <= LEASES_PER_SESSION);
const _: () = assert!(LEASES_PER_SESSION <= LEASES_MAX);
const _: () = assert!(CLIENT_PATIENCE_MS > CLIENT_ATTEMPT_MS);
const _: () = assert!(IO_MAX <= CLIENT_BYTES_IN_FLIGHT);
const _: () = assert!(READDIR_BATCH as usize <= READDIR_BYTES_MAX);
const _: () = assert!(PATH_MAX + NAME_MAX < BIRTH_PATH_MAX);
const _: () = assert!(FRAME_HEADER_MAX + FRAME_PAYLOAD_MAX <= BULK_OUT_BYTES);
// What the other side may have under way (waiting, and in its send window) fits into ours.
const _: () = assert!(BULK_OUT_BYTES + SHIP_WINDOW_BYTES <= BULK_IN_BYTES);
// A page of fsck fits into a header: the longest names, and 128 bytes beside each.
const _: () = assert!(
    (2 * FSCK_PAGE_ENTRIES + FSCK_PAGE_LINKS + FSCK_LINKS_MAX) * (NAME_MAX + 192)
        + FSCK_PAGE_KEYS * 1024
        < FRAME_HEADER_MAX
);
const _: () = assert!(HANDSHAKES_UNPROVEN < HANDSHAKES_MAX);
const _: () = assert!(HELLO_MAX <= FRAME_HEADER_MAX);
