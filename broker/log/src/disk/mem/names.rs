//! Names: what the process sees, what the platter has, and the changes in between.

use std::collections::BTreeMap;

use crate::disk::{SplitMix64, parent};

/// Which file.
pub(super) type InodeId = usize;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(InodeId),
    Dir,
}

type Tree = BTreeMap<String, Node>;

/// A change of names that is not durable yet; renames are atomic.
#[derive(Debug, Clone)]
struct Change {
    remove: Option<String>,
    /// Whether what is removed is a directory: nothing below it remains.
    whole: bool,
    insert: Option<(String, Node)>,
    /// What moves along below a renamed directory: old name, new name.
    along: Vec<(String, String, Node)>,
}

impl Change {
    fn apply(&self, tree: &mut Tree) {
        if let Some(path) = &self.remove {
            tree.remove(path);
            if self.whole {
                for below in below(tree, path) {
                    tree.remove(&below.0);
                }
            }
        }
        if let Some((path, node)) = &self.insert {
            tree.insert(path.clone(), *node);
        }
        for (from, to, node) in &self.along {
            tree.remove(from);
            tree.insert(to.clone(), *node);
        }
    }

    fn touches(&self, dir: &str) -> bool {
        let here = |path: &str| parent(path) == dir;
        self.remove.as_deref().is_some_and(here) || self.insert.as_ref().is_some_and(|(path, _)| here(path))
    }

    /// The directory that goes by this.
    fn takes_away(&self) -> Option<&str> {
        self.remove.as_deref().filter(|_| self.whole)
    }

    /// Some name is `dir` or below it.
    fn is_in(&self, dir: &str) -> bool {
        let names = self.remove.iter().chain(self.insert.iter().map(|(path, _)| path));
        names.into_iter().any(|path| path == dir || is_below(path, dir))
    }

    /// All names are below `dir`.
    fn is_below(&self, dir: &str) -> bool {
        self.remove.iter().chain(self.insert.iter().map(|(path, _)| path)).all(|path| is_below(path, dir))
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn below(tree: &Tree, dir: &str) -> Vec<(String, Node)> {
    let prefix = format!("{dir}/");
    let from = tree.range(prefix.clone()..);
    from.take_while(|(path, _)| path.starts_with(&prefix)).map(|(path, node)| (path.clone(), *node)).collect()
}

/// The names of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    current: Tree,
    durable: Tree,
    changes: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, path: &str) -> Option<Node> {
        self.current.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.get(path) == Some(Node::Dir)
    }

    /// All names and what they stand for, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Node)> {
        self.current.iter().map(|(path, node)| (path.as_str(), *node))
    }

    /// The names in a directory, without those below its directories.
    pub(super) fn children(&self, dir: &str) -> Vec<(String, Node)> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let from = self.current.range(prefix.clone()..);
        from.take_while(|(path, _)| path.starts_with(&prefix))
            .filter_map(|(path, node)| {
                let name = &path[prefix.len()..];
                (!name.contains('/')).then(|| (name.to_owned(), *node))
            })
            .collect()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.changes.push(change);
    }

    pub(super) fn insert(&mut self, path: &str, node: Node) {
        self.change(Change { remove: None, whole: false, insert: Some((path.to_owned(), node)), along: Vec::new() });
    }

    pub(super) fn remove_file(&mut self, path: &str) {
        self.change(Change { remove: Some(path.to_owned()), whole: false, insert: None, along: Vec::new() });
    }

    /// Removes a directory and what is in it, one name after the other. Returns the files.
    pub(super) fn remove_dir(&mut self, path: &str) -> Vec<InodeId> {
        let mut files = Vec::new();
        for (below, node) in below(&self.current, path).into_iter().rev() {
            if let Node::File(id) = node {
                files.push(id);
            }
            let whole = node == Node::Dir;
            self.change(Change { remove: Some(below), whole, insert: None, along: Vec::new() });
        }
        self.change(Change { remove: Some(path.to_owned()), whole: true, insert: None, along: Vec::new() });
        files
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, node: Node) {
        let moved = |path: String, node| {
            let to = format!("{to}{}", &path[from.len()..]);
            (path, to, node)
        };
        let along = match node {
            Node::Dir => below(&self.current, from).into_iter().map(|(path, node)| moved(path, node)).collect(),
            Node::File(_) => Vec::new(),
        };
        let insert = Some((to.to_owned(), node));
        self.change(Change { remove: Some(from.to_owned()), whole: node == Node::Dir, insert, along });
    }

    /// Makes the names in `dir` durable, or all of them.
    pub(super) fn sync(&mut self, dir: Option<&str>) {
        let mut rest: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            // In a directory that took the name of one whose going is not durable: it can only come after that.
            let early = rest.iter().filter_map(Change::takes_away).any(|gone| change.is_in(gone));
            if dir.is_none_or(|dir| change.touches(dir) && !early) {
                change.apply(&mut self.durable);
                if let Some(gone) = change.remove.as_deref().filter(|_| change.whole) {
                    rest.retain(|earlier| !earlier.is_below(gone));
                }
            } else {
                rest.push(change);
            }
        }
        self.changes = rest;
    }

    /// Power is lost: each change survives or does not.
    pub(super) fn lose_power(&mut self, rng: &mut SplitMix64, keep_percent: u64) {
        let mut tree = std::mem::take(&mut self.durable);
        // Directories that did not go after all. Another one of the name, with what lies in it, cannot have come then.
        let mut stayed: Vec<String> = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            let survives = rng.chance(keep_percent);
            if stayed.iter().any(|dir| change.is_in(dir)) {
                continue;
            }
            if survives {
                change.apply(&mut tree);
            } else if let Some(dir) = change.takes_away() {
                stayed.push(dir.to_owned());
            }
        }
        // What lies in a directory that did not make it is not found.
        let mut kept = Tree::new();
        for (path, node) in tree {
            let dir = parent(&path);
            if dir.is_empty() || kept.get(dir) == Some(&Node::Dir) {
                kept.insert(path, node);
            }
        }
        self.durable.clone_from(&kept);
        self.current = kept;
    }

    /// Calls `found` with every file that a name leads to, now or after a power loss.
    pub(super) fn each_file(&self, mut found: impl FnMut(InodeId)) {
        let inserted = self.changes.iter().flat_map(|change| {
            change.insert.iter().map(|(_, node)| *node).chain(change.along.iter().map(|(_, _, node)| *node))
        });
        for node in self.current.values().chain(self.durable.values()).copied().chain(inserted) {
            if let Node::File(id) = node {
                found(id);
            }
        }
    }
}
