//! The `local` subcommand: a cluster of child processes on one machine.
