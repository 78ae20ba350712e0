//! The address of every peer (M1).
//!
//! Filled by [`super::discovery`] before any Raft object exists, and by the greeting of peers that connect to us; read by
//! [`super::transport`] each time it connects. Registering never needs the peer to be up. Asking for a peer that was never
//! registered is an error that names it; there is no way to send to it silently. Addresses are names, not resolved
//! sockets: resolution happens at each connection attempt, so a pod that comes back elsewhere is found again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use chronik_model::NodeId;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

/// A normalised address: host name or IP, and port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddress {
    host: String,
    port: u16,
    secure: bool,
}

/// Text that is not an address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is not an address: {problem}; accepted: host, host:port, [v6]:port, http://host:port, https://host:port"
)]
pub struct AddressError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl PeerAddress {
    /// Reads `host`, `host:port`, `[v6]:port`, a bare IPv6 address, or any of them after `http://` or `https://`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let error = |problem| AddressError { text: text.to_owned(), problem };
        let trimmed = text.trim();
        let lower = trimmed.to_ascii_lowercase();
        let (secure, rest) = if lower.starts_with("https://") {
            (true, &trimmed["https://".len()..])
        } else if lower.starts_with("http://") {
            (false, &trimmed["http://".len()..])
        } else if lower.contains("://") {
            return Err(error("unknown scheme"));
        } else {
            (false, trimmed)
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '@', '?', '#']) || rest.chars().any(char::is_whitespace) {
            return Err(error("more than a host and a port"));
        }
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed.split_once(']').ok_or_else(|| error("'[' without ']'"))?;
            host.parse::<Ipv6Addr>().map_err(|_| error("not an IPv6 address between the brackets"))?;
            match after {
                "" => (host, None),
                after => (host, Some(after.strip_prefix(':').ok_or_else(|| error("text after ']'"))?)),
            }
        } else if rest.parse::<Ipv6Addr>().is_ok() {
            (rest, None)
        } else {
            match rest.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(error("too many colons; IPv6 needs brackets")),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host.is_empty() {
            return Err(error("no host"));
        }
        let port = match port {
            None => default_port,
            Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or_else(|| error("the port is not 1 to 65535"))?,
        };
        Ok(Self { host, port, secure })
    }

    /// Host name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it was written `https://`.
    #[must_use]
    pub fn secure(&self) -> bool {
        self.secure
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where the directory has an address from; a stronger origin is not replaced by a weaker one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// The peer's own greeting, or a committed registration.
    Learned,
    /// Configuration, `cluster.yaml` or DNS.
    Configured,
}

/// A send to a peer without an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("peer {0} has no registered address")]
pub struct UnregisteredPeer(pub NodeId);

/// What a registration changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Registered {
    /// The peer was unknown.
    New,
    /// It had this other address before.
    Changed(PeerAddress),
    /// Nothing.
    Same,
}

#[derive(Clone, Debug)]
struct Entry {
    address: PeerAddress,
    origin: Origin,
    last_ip: Option<IpAddr>,
}

/// One line of the address book on disk.
#[derive(serde::Serialize, serde::Deserialize)]
struct BookLine {
    id: i32,
    address: String,
    ip: Option<IpAddr>,
}

/// The peers in the bytes of an address book. Nothing of a book that is not whole, and no line without an id or an address.
#[must_use]
pub fn read_book(bytes: &[u8]) -> Vec<(NodeId, PeerAddress, Option<IpAddr>)> {
    let lines = serde_json::from_slice::<Vec<BookLine>>(bytes).unwrap_or_default().into_iter();
    let lines = lines.filter(|line| line.id > 0);
    lines.filter_map(|line| Some((NodeId(line.id), PeerAddress::parse(&line.address, 9192).ok()?, line.ip))).collect()
}

/// All known peers.
///
/// Peers that were reached once are kept in a small file, so that a restart finds them even when DNS is down. The file
/// is a hint: losing it, or finding nonsense in it, costs nothing but a look at DNS.
#[derive(Debug)]
pub struct PeerDirectory {
    entries: RwLock<BTreeMap<NodeId, Entry>>,
    version: watch::Sender<u64>,
    book: Option<PathBuf>,
    writing: Mutex<()>,
}

impl Default for PeerDirectory {
    fn default() -> Self {
        Self { entries: RwLock::default(), version: watch::Sender::new(0), book: None, writing: Mutex::default() }
    }
}

impl PeerDirectory {
    /// A directory that remembers peers in the file `book`.
    #[must_use]
    pub fn with_book(book: &Path) -> Self {
        let directory = Self { book: Some(book.to_owned()), ..Self::default() };
        for (id, address, ip) in read_book(&std::fs::read(book).unwrap_or_default()) {
            directory.register(id, &address, Origin::Learned);
            if let Some(entry) = directory.entries.write().get_mut(&id) {
                entry.last_ip = ip;
            }
        }
        directory
    }

    /// Registers or updates a peer.
    pub fn register(&self, id: NodeId, address: &PeerAddress, origin: Origin) -> Registered {
        let result = {
            let mut entries = self.entries.write();
            match entries.get_mut(&id) {
                None => {
                    entries.insert(id, Entry { address: address.clone(), origin, last_ip: None });
                    Registered::New
                }
                Some(entry) if entry.origin > origin => Registered::Same,
                Some(entry) if entry.address == *address => {
                    entry.origin = origin;
                    Registered::Same
                }
                Some(entry) => {
                    entry.origin = origin;
                    entry.last_ip = entry.last_ip.filter(|_| entry.address.host == address.host);
                    Registered::Changed(std::mem::replace(&mut entry.address, address.clone()))
                }
            }
        };
        match &result {
            Registered::New => tracing::info!(peer = %id, %address, ?origin, "peer registered"),
            Registered::Changed(old) => tracing::info!(peer = %id, %address, %old, ?origin, "peer has another address"),
            Registered::Same => return result,
        }
        if address.secure {
            tracing::warn!(peer = %id, %address, "https:// given, but peers do not speak TLS yet: connecting in plain text");
        }
        self.version.send_modify(|v| *v += 1);
        result
    }

    /// The address of `id`.
    ///
    /// # Errors
    /// When it was never registered.
    pub fn get(&self, id: NodeId) -> Result<PeerAddress, UnregisteredPeer> {
        self.entries.read().get(&id).map(|entry| entry.address.clone()).ok_or(UnregisteredPeer(id))
    }

    /// Everybody, in order of id.
    #[must_use]
    pub fn all(&self) -> Vec<(NodeId, PeerAddress)> {
        self.entries.read().iter().map(|(id, entry)| (*id, entry.address.clone())).collect()
    }

    /// The IP address under which `id` answered last, for when its name does not resolve.
    #[must_use]
    pub fn last_ip(&self, id: NodeId) -> Option<IpAddr> {
        self.entries.read().get(&id).and_then(|entry| entry.last_ip)
    }

    /// `id` answered at `ip`: remembers it.
    pub fn reached(&self, id: NodeId, ip: IpAddr) {
        let lines: Vec<BookLine> = {
            let mut entries = self.entries.write();
            match entries.get_mut(&id) {
                Some(entry) if entry.last_ip != Some(ip) => entry.last_ip = Some(ip),
                _ => return,
            }
            let line = |(id, entry): (&NodeId, &Entry)| BookLine {
                id: id.0,
                address: entry.address.to_string(),
                ip: entry.last_ip,
            };
            entries.iter().map(line).collect()
        };
        let Some(book) = &self.book else { return };
        // Tasks of several peers come here at the same time.
        let _one_at_a_time = self.writing.lock();
        let temporary = book.with_extension("tmp");
        let written = serde_json::to_vec(&lines)
            .map_err(std::io::Error::other)
            .and_then(|bytes| std::fs::write(&temporary, bytes))
            .and_then(|()| std::fs::rename(&temporary, book));
        if let Err(error) = written {
            tracing::warn!(%error, file = %book.display(), "the address book was not written");
        }
    }

    /// Changes when an entry does.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        PeerAddress::parse(text, 9192).map_or_else(|e| e.to_string(), |a| a.to_string())
    }

    #[test]
    fn every_usual_spelling_of_an_address_is_normalised() {
        for (text, normal) in [
            ("broker-1", "broker-1:9192"),
            ("Broker-1.NS.svc.:7000", "broker-1.ns.svc:7000"),
            ("http://broker-1:7000", "broker-1:7000"),
            ("https://broker-1:7000/", "broker-1:7000"),
            ("HTTP://broker-1", "broker-1:9192"),
            ("10.0.0.1:7000", "10.0.0.1:7000"),
            ("[::1]:7000", "[::1]:7000"),
            ("::1", "[::1]:9192"),
            ("http://[fe80::1]:7000", "[fe80::1]:7000"),
            ("[::1]", "[::1]:9192"),
        ] {
            assert_eq!(shown(text), normal, "{text}");
        }
        assert!(PeerAddress::parse("https://a", 1).unwrap().secure());
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_reason() {
        for text in
            ["", "a:0", "a:70000", "a:b", "ftp://a", "a:1:2", "[::1", "[a]:1", "[::1]x", "http://a/b", "a b", ":9"]
        {
            assert!(PeerAddress::parse(text, 9192).is_err(), "{text}");
        }
        assert!(shown("ftp://a").contains("unknown scheme"));
    }

    #[test]
    fn asking_for_an_unregistered_peer_names_it() {
        let directory = PeerDirectory::default();
        let error = directory.get(NodeId(7)).unwrap_err();
        assert_eq!(error.to_string(), "peer 7 has no registered address");
    }

    #[test]
    fn a_learned_address_never_replaces_a_configured_one_and_changes_are_announced() {
        let address = |text| PeerAddress::parse(text, 1).unwrap();
        let directory = PeerDirectory::default();
        let watch = directory.watch();
        assert_eq!(directory.register(NodeId(2), &address("a"), Origin::Learned), Registered::New);
        assert_eq!(directory.register(NodeId(2), &address("b"), Origin::Configured), Registered::Changed(address("a")));
        assert_eq!(directory.register(NodeId(2), &address("c"), Origin::Learned), Registered::Same);
        assert_eq!(directory.get(NodeId(2)), Ok(address("b")));
        assert!(watch.has_changed().unwrap());
        assert_eq!(*directory.version.borrow(), 2);
    }

    #[test]
    fn a_peer_that_was_reached_is_known_after_a_restart_and_nonsense_in_the_book_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let book = dir.path().join("peers.json");
        let address = PeerAddress::parse("broker-2:7", 1).unwrap();
        let directory = PeerDirectory::with_book(&book);
        directory.register(NodeId(2), &address, Origin::Configured);
        directory.reached(NodeId(2), [10, 0, 0, 2].into());
        let again = PeerDirectory::with_book(&book);
        assert_eq!(again.get(NodeId(2)), Ok(address));
        assert_eq!(again.last_ip(NodeId(2)), Some([10, 0, 0, 2].into()));
        std::fs::write(&book, b"[{]").unwrap();
        assert!(PeerDirectory::with_book(&book).all().is_empty());
    }
}
