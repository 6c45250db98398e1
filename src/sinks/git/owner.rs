//! What an inventory owns in a branch, and where that is written down.
//!
//! Usually in a ref, `refs/kollect/<cluster>/<namespace>/<name>`: the tree of its commit is the owned subtree, and its
//! message says which branch and which commit of it the tree belongs to. Where a server refuses such refs, or where the
//! ref belongs to another branch of the same repository, a file `.kollect/<cluster>/<namespace>/<name>` in the branch
//! lists the paths. Where both are, the file wins: whoever writes the ref removes the file.

use std::fmt;

use git2::{Oid, Repository};

use super::error::GitError;
use super::tree::{Action, Edits, Paths};
use crate::export::{FilePath, Scope};
use crate::model::{Cluster, InventoryKey, Name, Namespace, Uid};

/// Where the refs are.
pub(super) const REFS: &str = "refs/kollect/";

/// Where the files are that stand for refs.
pub(super) const FILES: &str = ".kollect";

/// Where a branch says what tells its repository from others, where no ref can.
pub(super) fn identity_file() -> FilePath {
    FilePath::of_record("repository")
}

/// What the empty cluster is called.
const DEFAULT: &str = "default";

/// An inventory of a cluster by the name that it has in a repository: three encoded segments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OwnerName(Box<str>);

impl OwnerName {
    /// Returns the name of a scope.
    pub(super) fn of(scope: &Scope) -> Self {
        let ObjectSegments { cluster, namespace, name } = ObjectSegments::of(scope);
        Self(format!("{}/{}/{}", encode(cluster), encode(namespace), encode(name)).into())
    }

    /// Reads the name of a ref; `None` for a ref that is none of ours.
    pub(super) fn from_reference(reference: &str) -> Option<Self> {
        reference.strip_prefix(REFS).and_then(Self::parse)
    }

    /// Reads the path of a file that stands for a ref, below their folder.
    pub(super) fn from_file(path: &FilePath) -> Option<Self> {
        Self::parse(path.as_str())
    }

    fn parse(text: &str) -> Option<Self> {
        let segments: Vec<String> = text.split('/').map(decode).collect::<Option<_>>()?;
        let canonical = segments.iter().map(|segment| encode(segment)).collect::<Vec<_>>().join("/");
        (segments.len() == 3 && segments.iter().all(|segment| !segment.is_empty()) && canonical == text)
            .then(|| Self(text.into()))
    }

    /// Returns the ref.
    pub(super) fn reference(&self) -> String {
        format!("{REFS}{}", self.0)
    }

    /// Returns the file that stands for the ref.
    pub(super) fn file(&self) -> FilePath {
        FilePath::of_record(&self.0)
    }

    /// Returns the inventory as a scope. `unnamed` is the cluster that `default` stands for.
    pub(super) fn scope(&self, unnamed: &Cluster, inventory_uid: Uid) -> Option<Scope> {
        let mut segments = self.0.split('/').map(decode);
        let (cluster, namespace, name) = (segments.next()??, segments.next()??, segments.next()??);
        let cluster = if cluster == DEFAULT { unnamed.clone() } else { Cluster::new(cluster) };
        let inventory = InventoryKey::new(Namespace::new(namespace), Name::new(name));
        Some(Scope { cluster, inventory, inventory_uid })
    }
}

impl fmt::Display for OwnerName {
    /// Prints `cluster/namespace/name` as people write them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decode(&self.0).unwrap_or_default())
    }
}

struct ObjectSegments<'a> {
    cluster: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> ObjectSegments<'a> {
    fn of(scope: &'a Scope) -> Self {
        let cluster = if scope.cluster.is_empty() { DEFAULT } else { scope.cluster.as_str() };
        Self { cluster, namespace: scope.inventory.namespace.as_str(), name: scope.inventory.name.as_str() }
    }
}

/// Encodes one segment so that git takes it in a ref (see `git help check-ref-format`), and a disk as a file name.
///
/// Everything but letters, digits, `-`, `_` and `.` becomes `%XX`; so does a dot at either end, after another dot, and
/// before a final `lock`.
fn encode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut encoded = String::with_capacity(bytes.len());
    for (index, byte) in bytes.iter().enumerate() {
        let rest = bytes.get(index + 1..).unwrap_or_default();
        let dot_fits = index > 0 && !rest.is_empty() && !encoded.ends_with('.') && !rest.eq_ignore_ascii_case(b"lock");
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => encoded.push(char::from(*byte)),
            b'.' if dot_fits => encoded.push('.'),
            _ => encoded.extend(['%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    encoded
}

fn hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase()
}

/// Undoes [`encode`]; `None` where the text is not what it makes.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            u8::try_from(high << 4 | low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

/// What the message of a ref's commit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Name of the branch.
    pub(super) branch: String,
    /// Commit of the branch that has the files; `None` while there is no branch.
    pub(super) at: Option<Oid>,
    /// UID of the inventory.
    pub(super) inventory_uid: Uid,
    /// Who wrote it: UID of the writer's namespace `kube-system`.
    pub(super) writer: String,
    /// What tells this repository from others: see [`super::actor::Actor::identity`].
    pub(super) repository: String,
}

impl Note {
    /// Returns the message of the commit.
    pub(super) fn message(&self, owner: &OwnerName) -> String {
        let at = self.at.map(|at| at.to_string()).unwrap_or_default();
        let Self { branch, inventory_uid, writer, repository, .. } = self;
        format!(
            "kollect: files of {owner}\n\nBranch: {branch}\nCommit: {at}\nInventory-Uid: {inventory_uid}\n\
             Writer: {writer}\nRepository: {repository}\n"
        )
    }

    fn read(message: &str) -> Self {
        let value = |key: &str| {
            let line = message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.unwrap_or_default()
        };
        Self {
            branch: value("Branch").to_owned(),
            at: Oid::from_str(value("Commit")).ok(),
            inventory_uid: Uid::new(value("Inventory-Uid")),
            writer: value("Writer").to_owned(),
            repository: value("Repository").to_owned(),
        }
    }
}

/// The commit behind a ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// The commit.
    pub(super) commit: Oid,
    /// The owned subtree.
    pub(super) tree: Oid,
    /// The owned subtree before that, where the mirror has it.
    pub(super) before: Option<Oid>,
    /// What the message says.
    pub(super) note: Note,
}

/// Reads the commit behind a ref.
pub(super) fn read_claim(repository: &Repository, commit: Oid) -> Result<Claim, GitError> {
    let commit = repository.find_commit(commit).map_err(GitError::Mirror)?;
    let before = commit.parents().next().map(|parent| parent.tree_id());
    Ok(Claim {
        commit: commit.id(),
        tree: commit.tree_id(),
        before,
        note: Note::read(&String::from_utf8_lossy(commit.message_bytes())),
    })
}

/// Returns what a file that stands for a ref says.
pub(super) fn listing(paths: &[(FilePath, Oid)]) -> Vec<u8> {
    let mut paths: Vec<&str> = paths.iter().map(|(path, _)| path.as_str()).collect();
    paths.sort_unstable();
    paths.into_iter().flat_map(|path| [path.as_bytes(), b"\n"]).flatten().copied().collect()
}

/// Reads the paths of a file that stands for a ref.
pub(super) fn read_listing(repository: &Repository, blob: Oid) -> Result<Vec<FilePath>, GitError> {
    let blob = repository.find_blob(blob).map_err(GitError::Mirror)?;
    let text = String::from_utf8_lossy(blob.content());
    Ok(text.lines().filter_map(|line| FilePath::new(line).ok()).collect())
}

/// Returns which of the paths are in a branch's tree, as edits that make the owned subtree of a listing.
pub(super) fn subtree(repository: &Repository, branch: Option<Oid>, paths: &[FilePath]) -> Result<Edits, GitError> {
    let there = Paths::new(paths).among(repository, branch)?;
    Ok(there.into_iter().map(|(path, blob)| (path.clone(), Action::Put(blob))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(cluster: &str, namespace: &str, name: &str) -> Scope {
        Scope {
            cluster: Cluster::new(cluster),
            inventory: InventoryKey::new(Namespace::new(namespace), Name::new(name)),
            inventory_uid: Uid::new("u"),
        }
    }

    #[test]
    fn refs_are_named_as_people_read_them() {
        let name = OwnerName::of(&scope("", "team-a", "apps.v1"));
        assert_eq!(name.reference(), "refs/kollect/default/team-a/apps.v1");
        assert_eq!(name.file().as_str(), ".kollect/default/team-a/apps.v1");
        assert_eq!(name.to_string(), "default/team-a/apps.v1");
        for unnamed in ["", "default"] {
            let unnamed = scope(unnamed, "team-a", "apps.v1");
            assert_eq!(name.scope(&unnamed.cluster, Uid::new("u")), Some(unnamed));
        }
    }

    #[test]
    fn what_git_forbids_in_a_ref_is_encoded() {
        for (segment, encoded) in [
            ("a..b", "a.%2Eb"),
            (".a", "%2Ea"),
            ("a.", "a%2E"),
            ("a.lock", "a%2Elock"),
            ("a.locks", "a.locks"),
            ("a@{b", "a%40%7Bb"),
            ("a/b c", "a%2Fb%20c"),
            ("50%", "50%25"),
        ] {
            assert_eq!(encode(segment), encoded);
        }
    }

    #[test]
    fn refs_of_others_are_not_ours() {
        for name in ["refs/heads/main", "refs/kollect/a/b", "refs/kollect/a/b/c/d", "refs/kollect/a//c"] {
            assert_eq!(OwnerName::from_reference(name), None, "{name}");
        }
        assert_eq!(OwnerName::from_reference("refs/kollect/a/b/%61"), None, "one name, one ref");
    }

    #[test]
    fn a_note_reads_what_it_wrote() {
        let owner = OwnerName::of(&scope("west", "team-a", "apps"));
        let note = Note {
            branch: "release/1".to_owned(),
            at: Oid::from_str("1144acd4a734c17bccf832024e42561f7678fe17").ok(),
            inventory_uid: Uid::new("11111111-2222-4333-8444-5555555555ff"),
            writer: "us".to_owned(),
            repository: "00ff".to_owned(),
        };
        assert_eq!(Note::read(&note.message(&owner)), note);
        let young = Note { at: None, ..note };
        assert_eq!(Note::read(&young.message(&owner)), young);
    }

    proptest! {
        #[test]
        fn any_inventory_has_a_ref_that_git_takes_and_that_reads_back(
            cluster in ".{1,20}", namespace in "[a-z.@{~^:*?\\[ \\\\/%-]{1,12}", name in ".{1,20}"
        ) {
            let scope = scope(&cluster, &namespace, &name);
            let owner = OwnerName::of(&scope);
            prop_assert!(git2::Reference::is_valid_name(&owner.reference()), "{}", owner.reference());
            prop_assert_eq!(owner.file().as_str().split('/').count(), 4);
            let read = OwnerName::from_reference(&owner.reference()).unwrap();
            prop_assert_eq!(&read, &owner);
            prop_assert_eq!(read.scope(&scope.cluster, scope.inventory_uid.clone()), Some(scope));
        }
    }
}
