//! Replica manager, follower fetchers and the group runtime.
