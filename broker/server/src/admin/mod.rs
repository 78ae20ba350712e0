//! Admin HTTP: health, readiness, metrics, status, doctor.
