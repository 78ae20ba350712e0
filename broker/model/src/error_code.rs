//! Kafka's error codes (the numbers are part of the protocol).

use std::fmt;

macro_rules! error_codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// An error as Kafka numbers it; `Display` prints Kafka's name and what it means.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $text] $name = $code,)*
        }

        impl ErrorCode {
            /// Every code, for tests and tables.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> i16 {
                self as i16
            }

            /// The error of this number, if it is one.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    UnknownServerError = -1, "The broker met an unexpected error";
    None = 0, "No error";
    OffsetOutOfRange = 1, "The offset is outside the range of the log";
    CorruptMessage = 2, "The record batch failed its checksum or is malformed";
    UnknownTopicOrPartition = 3, "This broker does not host the topic or partition";
    InvalidFetchSize = 4, "The fetch size is invalid";
    LeaderNotAvailable = 5, "The partition has no leader right now";
    NotLeaderOrFollower = 6, "This broker is not the leader or a replica of the partition";
    RequestTimedOut = 7, "The request timed out";
    BrokerNotAvailable = 8, "The broker is not available";
    ReplicaNotAvailable = 9, "The replica is not available";
    MessageTooLarge = 10, "The record batch is larger than max.message.bytes";
    StaleControllerEpoch = 11, "The controller moved to another broker";
    OffsetMetadataTooLarge = 12, "The metadata of the committed offset is too large";
    NetworkException = 13, "The connection closed before the answer";
    CoordinatorLoadInProgress = 14, "The coordinator is loading and cannot answer yet";
    CoordinatorNotAvailable = 15, "The coordinator is not available";
    NotCoordinator = 16, "This is not the right coordinator";
    InvalidTopicException = 17, "The topic name is invalid";
    RecordListTooLarge = 18, "The record batch is larger than the segment size";
    NotEnoughReplicas = 19, "Fewer in-sync replicas than min.insync.replicas; nothing was written";
    NotEnoughReplicasAfterAppend = 20, "Written, but to fewer in-sync replicas than required";
    InvalidRequiredAcks = 21, "acks must be -1, 0 or 1";
    IllegalGeneration = 22, "The group generation is not the current one";
    InconsistentGroupProtocol = 23, "The member's protocols do not match the group's";
    InvalidGroupId = 24, "The group id is invalid";
    UnknownMemberId = 25, "The coordinator does not know this member";
    InvalidSessionTimeout = 26, "The session timeout is outside the allowed range";
    RebalanceInProgress = 27, "The group is rebalancing, so a rejoin is needed";
    InvalidCommitOffsetSize = 28, "The committed offset record is too large";
    TopicAuthorizationFailed = 29, "Not authorized to access the topic";
    GroupAuthorizationFailed = 30, "Not authorized to access the group";
    ClusterAuthorizationFailed = 31, "Not authorized for this cluster operation";
    InvalidTimestamp = 32, "A record timestamp is out of the accepted range";
    UnsupportedSaslMechanism = 33, "The SASL mechanism is not supported";
    IllegalSaslState = 34, "The request is not valid in this SASL state";
    UnsupportedVersion = 35, "The version of the API is not supported";
    TopicAlreadyExists = 36, "A topic of this name already exists";
    InvalidPartitions = 37, "The number of partitions is invalid";
    InvalidReplicationFactor = 38, "The replication factor is invalid or larger than the number of brokers";
    InvalidReplicaAssignment = 39, "The replica assignment is invalid";
    InvalidConfig = 40, "The configuration is invalid";
    NotController = 41, "This broker is not the controller";
    InvalidRequest = 42, "The request is malformed";
    UnsupportedForMessageFormat = 43, "The message format does not support the operation";
    PolicyViolation = 44, "The request violates a policy";
    OutOfOrderSequenceNumber = 45, "The sequence number is not the next one of this producer";
    DuplicateSequenceNumber = 46, "The sequence number was used before";
    InvalidProducerEpoch = 47, "The producer epoch is old";
    InvalidTxnState = 48, "The transaction is in another state";
    InvalidProducerIdMapping = 49, "The producer id does not belong to the transactional id";
    InvalidTransactionTimeout = 50, "The transaction timeout is larger than allowed";
    ConcurrentTransactions = 51, "Another operation on the transaction is under way";
    TransactionCoordinatorFenced = 52, "The transaction coordinator was replaced";
    TransactionalIdAuthorizationFailed = 53, "Not authorized for the transactional id";
    SecurityDisabled = 54, "Security features are disabled";
    OperationNotAttempted = 55, "The operation was not attempted";
    KafkaStorageError = 56, "The log directory of the partition is offline";
    LogDirNotFound = 57, "The log directory is not known";
    SaslAuthenticationFailed = 58, "SASL authentication failed";
    UnknownProducerId = 59, "The producer id has no state on this broker";
    ReassignmentInProgress = 60, "A reassignment of the partition is in progress";
    DelegationTokenAuthDisabled = 61, "Delegation tokens are disabled";
    DelegationTokenNotFound = 62, "The delegation token is not known";
    DelegationTokenOwnerMismatch = 63, "The delegation token belongs to another principal";
    DelegationTokenRequestNotAllowed = 64, "Delegation tokens are not allowed on this channel";
    DelegationTokenAuthorizationFailed = 65, "Not authorized for delegation tokens";
    DelegationTokenExpired = 66, "The delegation token expired";
    InvalidPrincipalType = 67, "The principal type is not supported";
    NonEmptyGroup = 68, "The group is not empty";
    GroupIdNotFound = 69, "The group id does not exist";
    FetchSessionIdNotFound = 70, "The fetch session does not exist";
    InvalidFetchSessionEpoch = 71, "The fetch session epoch is invalid";
    ListenerNotFound = 72, "The leader has no matching listener";
    TopicDeletionDisabled = 73, "Topic deletion is disabled";
    FencedLeaderEpoch = 74, "The leader epoch of the request is old";
    UnknownLeaderEpoch = 75, "The leader epoch of the request is newer than this broker's";
    UnsupportedCompressionType = 76, "The compression type is not supported";
    StaleBrokerEpoch = 77, "The broker epoch is not the registered one";
    OffsetNotAvailable = 78, "The new leader's high watermark has not caught up yet";
    MemberIdRequired = 79, "The member must join again with the id it was given";
    PreferredLeaderNotAvailable = 80, "The preferred leader is not available";
    GroupMaxSizeReached = 81, "The group is full";
    FencedInstanceId = 82, "Another member uses this group.instance.id";
    EligibleLeadersNotAvailable = 83, "No eligible leader is available";
    ElectionNotNeeded = 84, "The partition needs no election";
    NoReassignmentInProgress = 85, "No reassignment is in progress";
    GroupSubscribedToTopic = 86, "The group is subscribed to the topic";
    InvalidRecord = 87, "A record failed validation";
    UnstableOffsetCommit = 88, "Offset commits of open transactions exist";
    ThrottlingQuotaExceeded = 89, "The throttling quota is exceeded";
    ProducerFenced = 90, "A newer producer with this transactional id exists";
    ResourceNotFound = 91, "The resource does not exist";
    DuplicateResource = 92, "The resource is named twice";
    UnacceptableCredential = 93, "The credential is not acceptable";
    InconsistentVoterSet = 94, "The voter sets differ";
    InvalidUpdateVersion = 95, "The partition epoch is not the current one";
    FeatureUpdateFailed = 96, "The feature update failed";
    PrincipalDeserializationFailure = 97, "The principal could not be read";
    SnapshotNotFound = 98, "The snapshot does not exist";
    PositionOutOfRange = 99, "The position is outside the snapshot";
    UnknownTopicId = 100, "This broker does not know the topic id";
    DuplicateBrokerRegistration = 101, "Another live broker is registered with this id";
    BrokerIdNotRegistered = 102, "The broker id is not registered";
    InconsistentTopicId = 103, "The topic id does not match the topic name";
    InconsistentClusterId = 104, "The cluster id is not this cluster's";
    TransactionalIdNotFound = 105, "The transactional id does not exist";
    FetchSessionTopicIdError = 106, "The fetch session met an inconsistent topic id";
    IneligibleReplica = 107, "A replica of the new in-sync set is not eligible";
    NewLeaderElected = 108, "The change also elected a new leader";
    OffsetMovedToTieredStorage = 109, "The offset is in tiered storage";
    FencedMemberEpoch = 110, "The member epoch is fenced";
    UnreleasedInstanceId = 111, "The instance id is still used by another member";
    UnsupportedAssignor = 112, "The assignor is not supported";
    StaleMemberEpoch = 113, "The member epoch is stale";
    MismatchedEndpointType = 114, "The request went to a listener of another kind";
    UnsupportedEndpointType = 115, "The endpoint type is not supported";
    UnknownControllerId = 116, "The controller id is not known";
    UnknownSubscriptionId = 117, "The telemetry subscription is not known";
    TelemetryTooLarge = 118, "The telemetry is too large";
    InvalidRegistration = 119, "The registration is invalid";
    TransactionAbortable = 120, "The transaction can be aborted";
    InvalidRecordState = 121, "The record state is invalid";
    ShareSessionNotFound = 122, "The share session does not exist";
    InvalidShareSessionEpoch = 123, "The share session epoch is invalid";
    FencedStateEpoch = 124, "The share state epoch is fenced";
    InvalidVoterKey = 125, "The voter key does not match";
    DuplicateVoter = 126, "The voter exists already";
    VoterNotFound = 127, "The voter does not exist";
    InvalidRegularExpression = 128, "The regular expression is invalid";
    RebootstrapRequired = 129, "The client must bootstrap again";
    StreamsInvalidTopology = 130, "The streams topology is invalid";
    StreamsInvalidTopologyEpoch = 131, "The streams topology epoch is invalid";
    StreamsTopologyFenced = 132, "The streams topology epoch is old";
    ShareSessionLimitReached = 133, "The share session limit is reached";
}

impl ErrorCode {
    /// Whether this is [`ErrorCode::None`].
    #[must_use]
    pub const fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}

impl From<ErrorCode> for i16 {
    fn from(error: ErrorCode) -> Self {
        error.code()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.text())
    }
}

impl std::error::Error for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_round_trip() {
        for (position, error) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(i16::try_from(position).unwrap() - 1, error.code(), "{error:?}");
            assert_eq!(ErrorCode::from_code(error.code()), Some(*error));
        }
        assert_eq!(ErrorCode::from_code(999), None);
    }
}
