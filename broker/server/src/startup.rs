//! Start-up order of a broker.
