//! The secret that operators and brokers share, from the file `control.secret.file`.
//!
//! Each line of the file is accepted, the first is presented: so a secret is replaced without a gap by writing the new
//! line above the old one, waiting until every broker has the file, and removing the old line. The file is looked at
//! with every question and read again when it has changed.
//!
//! What never happens: a question is let in because the file is missing or empty; a comparison tells by its duration how
//! much of a guess was right.

use std::hint::black_box;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};

/// Largest file that is read.
const MAX_BYTES: u64 = 16 << 10;
/// Lines that are looked at.
const MAX_LINES: usize = 8;
/// A file changed so lately may change again without looking different.
const FRESH: Duration = Duration::from_secs(2);
/// The header.
const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// Why somebody is not let in, or why we cannot introduce ourselves.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// There is none.
    #[error("this broker has no secret, so it answers nobody: control.secret.file is not set")]
    NotConfigured,
    /// The file cannot be used.
    #[error("control.secret.file {path}: {problem}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The caller did not say it.
    #[error("this call needs the cluster's secret, as 'authorization: Bearer <secret>'")]
    Missing,
    /// The caller said another one.
    #[error("the secret is wrong")]
    Wrong,
}

impl From<SecretError> for Status {
    fn from(error: SecretError) -> Self {
        Self::unauthenticated(error.to_string())
    }
}

/// What tells one content of the file from another without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: (u64, u64),
    len: u64,
}

/// The secret of this broker.
pub struct Secret {
    path: Option<PathBuf>,
    known: Mutex<Option<(Stamp, Arc<[String]>)>>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Secret {
    /// The secret in the file at `path`; `None` = there is none.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { path, known: Mutex::new(None) })
    }

    /// Whether a file is configured.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.path.is_some()
    }

    /// The secrets in force, at least one.
    fn current(&self) -> Result<Arc<[String]>, SecretError> {
        let path = self.path.as_ref().ok_or(SecretError::NotConfigured)?;
        let problem = |problem: String| SecretError::File { path: path.display().to_string(), problem };
        let io = |error: std::io::Error| problem(format!("cannot be read: {error}"));
        let mut known = self.known.lock();
        let file = std::fs::File::open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?;
        let stamp = Stamp { modified: found.modified().ok(), inode: (found.dev(), found.ino()), len: found.len() };
        let settled = stamp.modified.is_some_and(|at| at.elapsed().is_ok_and(|age| age > FRESH));
        if let Some((_, secrets)) = known.as_ref().filter(|(seen, _)| settled && *seen == stamp) {
            return Ok(Arc::clone(secrets));
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(io)?;
        let secrets: Arc<[String]> = secrets_in(&text).map_err(|text| problem(text.into()))?.into();
        *known = Some((stamp, Arc::clone(&secrets)));
        Ok(secrets)
    }

    /// Whether `presented`, the value of the header, lets its sender in.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, presented: Option<&str>) -> Result<(), SecretError> {
        let secrets = self.current()?;
        let guess = presented.and_then(|value| value.strip_prefix(SCHEME)).ok_or(SecretError::Missing)?;
        // All are compared, whichever matches.
        let matching = secrets.iter().filter(|secret| same(secret.as_bytes(), guess.trim().as_bytes())).count();
        if matching == 0 { Err(SecretError::Wrong) } else { Ok(()) }
    }

    /// Lets `request` in, or says why not.
    ///
    /// # Errors
    /// UNAUTHENTICATED.
    #[allow(clippy::result_large_err, reason = "what gRPC services return")]
    pub fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let value = request.metadata().get(HEADER).and_then(|value| value.to_str().ok());
        Ok(self.check(value)?)
    }

    /// The same for calls that need no secret while none is configured.
    ///
    /// # Errors
    /// UNAUTHENTICATED.
    #[allow(clippy::result_large_err, reason = "what gRPC services return")]
    pub fn admit_if_configured<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.is_configured() { self.admit(request) } else { Ok(()) }
    }

    /// Puts the secret, if there is one, into the headers of a question to a peer.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn sign(&self, headers: &mut MetadataMap) -> Result<(), SecretError> {
        if !self.is_configured() {
            return Ok(());
        }
        let secrets = self.current()?;
        let first = secrets.first().map(String::as_str).unwrap_or_default();
        headers.insert(HEADER, bearer(first)?);
        Ok(())
    }
}

/// The secrets in the text of a file: at least one, the one to present first.
///
/// # Errors
/// What is wrong with the text.
pub fn secrets_in(text: &str) -> Result<Vec<String>, &'static str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(MAX_LINES);
    let secrets: Vec<String> = lines.map(str::to_owned).collect();
    if secrets.is_empty() {
        return Err("holds no secret");
    }
    if secrets.iter().any(|secret| !secret.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err("a secret may hold visible ASCII characters only, without blanks");
    }
    Ok(secrets)
}

/// The header's value for `secret`.
///
/// # Errors
/// It cannot be in a header.
pub fn bearer(secret: &str) -> Result<AsciiMetadataValue, SecretError> {
    AsciiMetadataValue::try_from(format!("{SCHEME}{secret}")).map_err(|_| SecretError::Wrong)
}

/// Equality whose duration depends on the lengths only.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let mut differences = u8::from(ours.len() != theirs.len());
    for (position, byte) in theirs.iter().enumerate() {
        differences |= byte ^ ours.get(position).copied().unwrap_or(!byte);
        differences = black_box(differences);
    }
    differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Arc<Secret>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        (dir, Secret::new(Some(path)))
    }

    #[test]
    fn without_a_file_nobody_is_let_in_and_the_setting_is_named() {
        let error = Secret::new(None).check(Some("Bearer x")).unwrap_err();
        assert!(error.to_string().contains("control.secret.file"), "{error}");
        for text in ["", "  \n\n", "two words\n", "sn\u{f6}\n"] {
            let (_dir, secret) = file(text);
            let error = secret.check(Some("Bearer ")).unwrap_err();
            assert!(matches!(error, SecretError::File { .. }), "{text:?}: {error}");
        }
        let gone = Secret::new(Some("/nonexistent/token".into()));
        assert!(gone.check(Some("Bearer x")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn only_the_secret_opens() {
        let (_dir, secret) = file("geheim\n");
        assert_eq!(secret.check(Some("Bearer geheim")), Ok(()));
        assert_eq!(secret.check(None), Err(SecretError::Missing));
        assert_eq!(secret.check(Some("Basic geheim")), Err(SecretError::Missing));
        for wrong in ["Bearer ", "Bearer gehei", "Bearer geheimm", "Bearer Geheim", "Bearer geheim x"] {
            assert_eq!(secret.check(Some(wrong)), Err(SecretError::Wrong), "{wrong}");
        }
    }

    #[test]
    fn a_rotation_accepts_both_and_presents_the_new_one() {
        let (dir, secret) = file("old");
        assert_eq!(secret.check(Some("Bearer old")), Ok(()));
        std::fs::write(dir.path().join("token"), "new\nold\n").unwrap();
        assert_eq!((secret.check(Some("Bearer old")), secret.check(Some("Bearer new"))), (Ok(()), Ok(())));
        let mut headers = MetadataMap::new();
        secret.sign(&mut headers).unwrap();
        assert_eq!(headers.get(HEADER).unwrap(), "Bearer new");
        // As Kubernetes does it: another file under the same name.
        std::fs::write(dir.path().join("next"), "new").unwrap();
        std::fs::rename(dir.path().join("next"), dir.path().join("token")).unwrap();
        assert_eq!(
            (secret.check(Some("Bearer old")), secret.check(Some("Bearer new"))),
            (Err(SecretError::Wrong), Ok(()))
        );
        std::fs::remove_file(dir.path().join("token")).unwrap();
        assert!(secret.check(Some("Bearer new")).is_err(), "nobody is let in by what was");
    }
}
