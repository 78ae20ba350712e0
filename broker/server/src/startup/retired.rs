//! A data directory that its cluster has given up is moved aside, and an empty one begins in its place.
//!
//! When a broker was removed for good, `cluster.yaml` lists the id of its data directory under `retired`. Should a broker
//! start again on that disk, [`move_aside`] puts everything of the old life into `retired-<directory id>/`, where people
//! find it, and the broker begins as a joiner: what the disk remembers of the quorum and of its replicas is not true any
//! more. Called by `storage` once the directory is locked, before anything in it is believed.
//!
//! A marker with the directory's id is written first and removed last, each durably. Whoever finds it goes on where the
//! last one was interrupted, whatever the list says by then, so the new life never meets half of the old one.
//!
//! What never happens: a directory that is not listed is touched; anything is deleted; a marker that outlived its move
//! takes the new life aside.

use std::collections::BTreeSet;
use std::io;

use chronik_log::disk::Disk;
use chronik_log::{LogDir, LogError};
use chronik_model::DirectoryId;

/// Names the directory that is being moved aside.
const MARKER: &str = "retiring";
/// Begins the name of what was moved aside.
const PREFIX: &str = "retired-";
/// Held by this process, and of no life.
const LOCK: &str = ".lock";
/// Belongs to the file system.
const LOST_AND_FOUND: &str = "lost+found";

/// Moves the old life aside if its directory id is in `listed`, or if a move was begun before. Whether the disk holds a
/// life that was moved aside, now or earlier: who begins anew on such a disk never founds a cluster.
///
/// # Errors
/// The disk failed, or its identity cannot be read; the next start goes on.
pub fn move_aside(log_dir: &LogDir, listed: &BTreeSet<DirectoryId>) -> Result<bool, LogError> {
    let disk = &**log_dir.disk();
    let found = log_dir.identity()?.map(|identity| identity.directory_id);
    let mut moving = begun(disk)?;
    if moving.is_some_and(|id| found.is_some_and(|found| found != id)) {
        // Its move was complete, and the new life has begun.
        remove_marker(disk)?;
        moving = None;
    }
    match moving {
        Some(id) => finish(disk, id)?,
        None => match found.filter(|found| listed.contains(found)) {
            Some(id) => {
                tracing::warn!(directory = %id, "the cluster has retired this data directory: it is moved aside");
                disk.write_atomic(MARKER, format!("{id}\n").as_bytes()).map_err(failed("write", MARKER))?;
                finish(disk, id)?;
            }
            None => {
                // The removal of a marker may have been seen by nobody but a process that died: it must not come back.
                disk.sync_dir("").map_err(failed("sync directory", MARKER))?;
            }
        },
    }
    let entries = disk.list("").map_err(failed("list", ""))?;
    Ok(entries.iter().any(|entry| entry.is_dir && entry.name.starts_with(PREFIX)))
}

fn failed(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { operation, path: path.to_owned(), source }
}

/// The id in the marker.
fn begun(disk: &dyn Disk) -> Result<Option<DirectoryId>, LogError> {
    let content = match disk.read(MARKER) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", MARKER)(error)),
    };
    let text = String::from_utf8_lossy(&content);
    let corrupt = |_| LogError::Corrupt { path: MARKER.to_owned(), reason: "names no directory id".to_owned() };
    text.trim().parse().map(Some).map_err(corrupt)
}

fn finish(disk: &dyn Disk, id: DirectoryId) -> Result<(), LogError> {
    let aside = format!("{PREFIX}{id}");
    disk.create_dir(&aside).map_err(failed("create directory", &aside))?;
    disk.sync_dir("").map_err(failed("sync directory", ""))?;
    let taken = |path: &str| disk.exists(path).map_err(failed("look at", path));
    for entry in disk.list("").map_err(failed("list", ""))? {
        let marker = entry.name == MARKER || entry.name.strip_suffix(".tmp") == Some(MARKER);
        if marker || [LOCK, LOST_AND_FOUND].contains(&&*entry.name) || entry.name.starts_with(PREFIX) {
            continue;
        }
        // A name of it may be there from an interrupted move.
        let mut to = format!("{aside}/{}", entry.name);
        for copy in 1.. {
            if !taken(&to)? {
                break;
            }
            to = format!("{aside}/{}.{copy}", entry.name);
        }
        disk.rename(&entry.name, &to).map_err(failed("move aside", &entry.name))?;
    }
    disk.sync_dir(&aside).map_err(failed("sync directory", &aside))?;
    disk.sync_dir("").map_err(failed("sync directory", ""))?;
    remove_marker(disk)?;
    tracing::warn!(directory = %id, to = aside, "a retired data directory was moved aside; it may be deleted");
    Ok(())
}

fn remove_marker(disk: &dyn Disk) -> Result<(), LogError> {
    disk.remove_file(MARKER).map_err(failed("remove", MARKER))?;
    disk.sync_dir("").map_err(failed("sync directory", MARKER))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chronik_log::disk::{Fault, MemDisk, Operation};
    use chronik_model::{BrokerEpoch, ClusterId, NodeId};

    use super::*;

    const OLD: DirectoryId = chronik_model::Uuid([7; 16]);
    const NEW: DirectoryId = chronik_model::Uuid([8; 16]);

    fn log_dir(disk: &MemDisk) -> Arc<LogDir> {
        LogDir::new(Arc::new(disk.clone()))
    }

    fn life(disk: &MemDisk, id: DirectoryId) {
        let dir = log_dir(disk);
        dir.claim(&ClusterId::from("c"), NodeId(1), id).unwrap();
        for path in ["raft", "data", "data/t-0"] {
            disk.create_dir(path).unwrap();
            disk.sync_dir(chronik_log::disk::parent(path)).unwrap();
        }
        for path in ["raft/0.seg", "data/t-0/0.log", "founders", "peers.json"] {
            disk.write_atomic(path, path.as_bytes()).unwrap();
        }
        dir.write_clean_shutdown(BrokerEpoch(3)).unwrap();
    }

    fn names(disk: &MemDisk, dir: &str) -> Vec<String> {
        let names = disk.list(dir).unwrap().into_iter().map(|entry| entry.name);
        names.filter(|name| name != ".lock" && !name.ends_with(".tmp")).collect()
    }

    fn listed(ids: &[DirectoryId]) -> BTreeSet<DirectoryId> {
        ids.iter().copied().collect()
    }

    /// Starts until one succeeds, as the kubelet does.
    fn start(disk: &MemDisk, ids: &BTreeSet<DirectoryId>) -> bool {
        (0..20).find_map(|_| move_aside(&log_dir(disk), ids).ok()).expect("never succeeded")
    }

    #[test]
    fn a_listed_directory_is_moved_aside_whole_and_one_that_is_not_listed_is_not_touched() {
        let disk = MemDisk::new();
        life(&disk, OLD);
        let before = names(&disk, "");
        assert!(!start(&disk, &listed(&[NEW])));
        assert_eq!(names(&disk, ""), before);
        assert!(start(&disk, &listed(&[OLD])));
        let aside = format!("retired-{OLD}");
        assert_eq!((names(&disk, ""), names(&disk, &aside)), (vec![aside.clone()], before));
        assert_eq!(disk.read(&format!("{aside}/data/t-0/0.log")).unwrap(), "data/t-0/0.log");
        // The next life is another one, and may be retired as well.
        life(&disk, NEW);
        assert!(start(&disk, &listed(&[OLD])));
        assert_eq!(log_dir(&disk).identity().unwrap().unwrap().directory_id, NEW);
        assert!(start(&disk, &listed(&[OLD, NEW])));
        assert_eq!(names(&disk, ""), [aside, format!("retired-{NEW}")]);
    }

    #[test]
    fn an_empty_directory_is_left_alone() {
        let disk = MemDisk::new();
        assert!(!start(&disk, &listed(&[OLD])));
        assert!(names(&disk, "").is_empty());
    }

    /// Every operation of the move fails once, the process dies or the power goes, and it starts again.
    #[test]
    fn wherever_a_move_is_interrupted_the_next_start_ends_it_and_the_new_life_stays() {
        let kinds = [Operation::Namespace, Operation::SyncDir, Operation::Sync, Operation::Append, Operation::Read];
        let mut interrupted = 0;
        for kind in kinds {
            for number in 1..12 {
                for power in [None, Some(1), Some(2), Some(3)] {
                    let disk = MemDisk::new();
                    life(&disk, OLD);
                    disk.inject(Fault::Fail(kind, number));
                    if move_aside(&log_dir(&disk), &listed(&[OLD])).is_ok() {
                        continue;
                    }
                    interrupted += 1;
                    match power {
                        None => disk.kill(),
                        Some(seed) => disk.crash(seed),
                    }
                    assert!(start(&disk, &listed(&[OLD])));
                    let story = format!("{kind:?} {number} {power:?}");
                    assert_eq!(names(&disk, ""), [format!("retired-{OLD}")], "{story}");
                    life(&disk, NEW);
                    disk.crash(number);
                    start(&disk, &listed(&[OLD]));
                    let identity = log_dir(&disk).identity().unwrap().unwrap();
                    assert_eq!(identity.directory_id, NEW, "{story}: the new life was taken aside");
                    assert!(names(&disk, "").contains(&"raft".to_owned()), "{story}");
                }
            }
        }
        assert!(interrupted > 40, "only {interrupted} moves were interrupted");
    }

    #[test]
    fn a_marker_of_an_earlier_life_does_not_save_one_that_is_listed_itself() {
        let disk = MemDisk::new();
        life(&disk, NEW);
        disk.write_atomic(MARKER, format!("{OLD}\n").as_bytes()).unwrap();
        assert!(move_aside(&log_dir(&disk), &listed(&[OLD, NEW])).unwrap());
        assert_eq!(names(&disk, ""), [format!("retired-{NEW}")]);
    }

    #[test]
    fn a_marker_that_names_nothing_is_refused() {
        let disk = MemDisk::new();
        life(&disk, OLD);
        disk.write_atomic(MARKER, b"what?").unwrap();
        assert!(matches!(move_aside(&log_dir(&disk), &listed(&[])), Err(LogError::Corrupt { .. })));
        assert!(names(&disk, "").contains(&"raft".to_owned()));
    }
}
