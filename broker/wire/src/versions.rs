//! THE table of Kafka's APIs: key, versions, first flexible version. Everything that depends on them asks here.
//!
//! The messages take their versions from [`ApiKey`]; the server builds one [`ApiTable`] out of its handlers at start
//! and both dispatch and the ApiVersions response read it, so that what is advertised is what is handled. The ranges
//! are those of Kafka 4.3, low end included.

use std::ops::RangeInclusive;

macro_rules! api_keys {
    ($($(#[$meta:meta])* $name:ident = $key:literal, $min:literal..=$max:literal, flexible $flexible:expr;)*) => {
        /// An API that has messages.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(i16)]
        pub enum ApiKey {
            $($(#[$meta])* $name = $key,)*
        }

        impl ApiKey {
            /// All of them, by key.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The API with this key, if it has messages.
            #[must_use]
            pub const fn from_i16(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name Kafka gives it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The versions whose messages can be read and written.
            #[must_use]
            pub const fn versions(self) -> RangeInclusive<i16> {
                match self {
                    $(Self::$name => $min..=$max,)*
                }
            }

            /// The first version with compact lengths and tagged fields; `i16::MAX` when there is none.
            #[must_use]
            pub const fn flexible_from(self) -> i16 {
                match self {
                    $(Self::$name => $flexible,)*
                }
            }
        }
    };
}

api_keys! {
    /// Appends record batches to partitions.
    Produce = 0, 3..=13, flexible 9;
    /// Reads record batches: consumers and followers.
    Fetch = 1, 4..=18, flexible 12;
    /// Looks offsets up by timestamp or by the special timestamps.
    ListOffsets = 2, 1..=11, flexible 6;
    /// Brokers, topics, partitions and their leaders.
    Metadata = 3, 0..=13, flexible 9;
    /// Commits the offsets of a group.
    OffsetCommit = 8, 2..=10, flexible 8;
    /// Reads the committed offsets of groups.
    OffsetFetch = 9, 1..=10, flexible 6;
    /// Locates the coordinator of a group or transaction.
    FindCoordinator = 10, 0..=6, flexible 3;
    /// Joins a classic group.
    JoinGroup = 11, 0..=9, flexible 6;
    /// Keeps a member of a classic group alive.
    Heartbeat = 12, 0..=4, flexible 4;
    /// Takes members out of a classic group.
    LeaveGroup = 13, 0..=5, flexible 4;
    /// Distributes the leader's assignment to the members of a classic group.
    SyncGroup = 14, 0..=5, flexible 4;
    /// Describes classic groups.
    DescribeGroups = 15, 0..=6, flexible 5;
    /// Lists the groups that a broker coordinates.
    ListGroups = 16, 0..=5, flexible 3;
    /// Negotiates versions and features. Its response always has header version 0.
    ApiVersions = 18, 0..=4, flexible 3;
    /// Creates topics.
    CreateTopics = 19, 2..=7, flexible 5;
    /// Deletes topics.
    DeleteTopics = 20, 1..=6, flexible 4;
    /// Advances the log start of partitions.
    DeleteRecords = 21, 0..=2, flexible 2;
    /// Hands out producer ids and epochs.
    InitProducerId = 22, 0..=5, flexible 2;
    /// Where leader epochs end, for truncation.
    OffsetForLeaderEpoch = 23, 2..=4, flexible 4;
    /// Reads configurations.
    DescribeConfigs = 32, 1..=4, flexible 4;
    /// Replaces configurations (superseded by IncrementalAlterConfigs).
    AlterConfigs = 33, 0..=2, flexible 2;
    /// Sizes of log directories and of the replicas in them.
    DescribeLogDirs = 35, 1..=5, flexible 2;
    /// Adds partitions to topics.
    CreatePartitions = 37, 0..=3, flexible 2;
    /// Deletes groups.
    DeleteGroups = 42, 0..=2, flexible 2;
    /// Elects preferred leaders, or unclean ones.
    ElectLeaders = 43, 0..=2, flexible 2;
    /// Changes single configurations.
    IncrementalAlterConfigs = 44, 0..=1, flexible 1;
    /// Moves partitions to other replicas.
    AlterPartitionReassignments = 45, 0..=1, flexible 0;
    /// Lists the partitions that move to other replicas.
    ListPartitionReassignments = 46, 0..=0, flexible 0;
    /// Deletes committed offsets.
    OffsetDelete = 47, 0..=0, flexible i16::MAX;
    /// Describes the brokers of the cluster.
    DescribeCluster = 60, 0..=2, flexible 0;
    /// Lists resources that have configurations.
    ListConfigResources = 74, 0..=1, flexible 0;
    /// Describes topics page by page.
    DescribeTopicPartitions = 75, 0..=0, flexible 0;
}

impl ApiKey {
    /// The key on the wire.
    #[must_use]
    pub const fn as_i16(self) -> i16 {
        self as i16
    }

    /// The lowest version.
    #[must_use]
    pub const fn min_version(self) -> i16 {
        *self.versions().start()
    }

    /// The highest version.
    #[must_use]
    pub const fn max_version(self) -> i16 {
        *self.versions().end()
    }

    /// Header version of a request. Answers for versions that do not exist too: ApiVersions must understand them.
    #[must_use]
    pub const fn request_header_version(self, version: i16) -> i16 {
        if version >= self.flexible_from() { 2 } else { 1 }
    }

    /// Header version of a response.
    #[must_use]
    pub const fn response_header_version(self, version: i16) -> i16 {
        match self {
            // The client does not know yet which versions the broker speaks, so the header must not depend on it.
            Self::ApiVersions => 0,
            _ if version >= self.flexible_from() => 1,
            _ => 0,
        }
    }

    /// The lowest version to advertise. It differs for Produce: without versions 0 to 2 in the list, librdkafka
    /// silently turns compression off (KAFKA-18659). They are refused all the same.
    #[must_use]
    pub const fn advertised_min_version(self) -> i16 {
        match self {
            Self::Produce => 0,
            _ => self.min_version(),
        }
    }
}

/// One API that is handled.
#[derive(Clone, Debug)]
pub struct ApiEntry<H> {
    /// The API.
    pub key: ApiKey,
    /// The versions that are handled, all within [`ApiKey::versions`].
    pub versions: RangeInclusive<i16>,
    /// What handles it.
    pub handler: H,
}

impl<H> ApiEntry<H> {
    /// The lowest version to advertise.
    #[must_use]
    pub fn advertised_min_version(&self) -> i16 {
        let lowest_handled = *self.versions.start() == self.key.min_version();
        if lowest_handled { self.key.advertised_min_version() } else { *self.versions.start() }
    }

    /// The highest version to advertise.
    #[must_use]
    pub fn max_version(&self) -> i16 {
        *self.versions.end()
    }
}

/// The APIs that a listener handles: what it advertises, and where requests go.
#[derive(Clone, Debug)]
pub struct ApiTable<H> {
    /// By key, so that dispatch is an index.
    entries: Vec<Option<ApiEntry<H>>>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'a, H> {
    /// To this handler.
    Handled(&'a ApiEntry<H>),
    /// The API is handled, but not in this version: UNSUPPORTED_VERSION.
    UnsupportedVersion(&'a ApiEntry<H>),
    /// The API is not handled: there is no response that the client could understand, so the connection is closed.
    UnknownApi,
}

impl<H> Default for ApiTable<H> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<H> ApiTable<H> {
    /// A table without APIs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an API in all its versions.
    #[must_use]
    pub fn with(self, key: ApiKey, handler: H) -> Self {
        self.with_versions(key, key.versions(), handler)
    }

    /// Adds an API in some of its versions; those that do not exist are left out.
    #[must_use]
    pub fn with_versions(mut self, key: ApiKey, versions: RangeInclusive<i16>, handler: H) -> Self {
        let versions = *versions.start().max(&key.min_version())..=*versions.end().min(&key.max_version());
        let index = key.as_i16() as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(ApiEntry { key, versions, handler });
        self
    }

    /// Who handles a request with this key and version.
    #[must_use]
    pub fn lookup(&self, key: i16, version: i16) -> Lookup<'_, H> {
        let entry = usize::try_from(key).ok().and_then(|index| self.entries.get(index)?.as_ref());
        match entry {
            Some(entry) if entry.versions.contains(&version) => Lookup::Handled(entry),
            Some(entry) => Lookup::UnsupportedVersion(entry),
            None => Lookup::UnknownApi,
        }
    }

    /// All APIs that are handled, by key: what ApiVersions advertises.
    pub fn entries(&self) -> impl Iterator<Item = &ApiEntry<H>> {
        self.entries.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_set_is_exactly_the_handled_set() {
        let table = ApiTable::new().with(ApiKey::Produce, "p").with_versions(ApiKey::Fetch, 0..=12, "f");
        let advertised: Vec<_> = table
            .entries()
            .map(|entry| (entry.key.as_i16(), entry.advertised_min_version(), entry.max_version()))
            .collect();
        assert_eq!(advertised, [(0, 0, 13), (1, 4, 12)]);
        assert!(matches!(table.lookup(1, 12), Lookup::Handled(entry) if entry.handler == "f"));
        assert!(matches!(table.lookup(1, 13), Lookup::UnsupportedVersion(_)));
        for key in [-1, 2, 18, i16::MAX, i16::MIN] {
            assert!(matches!(table.lookup(key, 0), Lookup::UnknownApi), "{key}");
        }
    }

    #[test]
    fn produce_below_version_3_is_advertised_but_refused() {
        let table = ApiTable::new().with(ApiKey::Produce, ());
        assert!(matches!(table.lookup(0, 2), Lookup::UnsupportedVersion(_)));
        assert!(matches!(table.lookup(0, 3), Lookup::Handled(_)));
    }

    #[test]
    fn header_versions_follow_flexibility_except_for_api_versions() {
        assert_eq!(ApiKey::Produce.request_header_version(8), 1);
        assert_eq!(ApiKey::Produce.request_header_version(9), 2);
        assert_eq!(ApiKey::Produce.response_header_version(8), 0);
        assert_eq!(ApiKey::Produce.response_header_version(9), 1);
        assert_eq!(ApiKey::ApiVersions.request_header_version(3), 2);
        assert_eq!(ApiKey::ApiVersions.request_header_version(99), 2);
        assert_eq!(ApiKey::ApiVersions.response_header_version(4), 0);
        assert_eq!(ApiKey::OffsetDelete.request_header_version(0), 1);
    }

    #[test]
    fn every_key_is_found_by_its_number() {
        for key in ApiKey::ALL {
            assert_eq!(ApiKey::from_i16(key.as_i16()), Some(*key));
            assert!(key.min_version() <= key.max_version());
        }
        assert_eq!(ApiKey::from_i16(4), None);
    }
}
