//! Which parts of an object a set of programs reads: a trie of map keys.
//!
//! List elements share the node of their list, so `spec.containers.image` stands for the image of every container. What is
//! read of a Helm release, which an object holds packed in a text, is a trie beside that of the object.

/// A node of the trie; the root stands for the object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    whole: bool,
    children: Vec<(Box<str>, Prefixes)>,
    /// Of the root alone: what is read of the Helm release.
    release: Option<Box<Prefixes>>,
}

impl Prefixes {
    /// Returns the node under a key, made if it is new; a node that wants everything is its own child.
    pub fn child(&mut self, key: &str) -> &mut Prefixes {
        if self.whole {
            return self;
        }
        let index = self.children.iter().position(|(known, _)| **known == *key).unwrap_or_else(|| {
            self.children.push((key.into(), Self::default()));
            self.children.len() - 1
        });
        &mut self.children[index].1
    }

    /// Returns the node under a key that a path picks. With a `value` comes the `name` beside it, which decides whether
    /// the value may be shown.
    pub(super) fn picked(&mut self, key: &str) -> &mut Prefixes {
        if key == "value" {
            self.child("name").take_all();
        }
        self.child(key)
    }

    /// Wants everything from here on.
    pub fn take_all(&mut self) {
        self.whole = true;
        self.children.clear();
    }

    /// Wants the value at a path of keys with all that is below it.
    pub fn insert<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>) {
        let mut node = self;
        for key in keys {
            node = node.child(key);
        }
        node.take_all();
    }

    /// Returns what is wanted of the Helm release that the object holds, to add to it.
    pub(super) fn release(&mut self) -> &mut Prefixes {
        self.release.get_or_insert_default()
    }

    /// Returns what is wanted of the Helm release that the object holds; `None` when nothing is.
    pub fn of_release(&self) -> Option<&Prefixes> {
        self.release.as_deref()
    }

    /// Adds all that another set wants.
    pub fn merge(&mut self, other: &Prefixes) {
        if let Some(release) = &other.release {
            self.release().merge(release);
        }
        if self.whole {
            return;
        }
        if other.whole {
            self.take_all();
            return;
        }
        for (key, theirs) in &other.children {
            self.child(key).merge(theirs);
        }
    }

    /// Tells whether everything from here on is wanted.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Returns the node under a key, `None` when nothing below that key is wanted.
    pub fn get(&self, key: &str) -> Option<&Prefixes> {
        self.children.iter().find(|(known, _)| **known == *key).map(|(_, node)| node)
    }

    /// Returns the number of keys wanted of a map here.
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// Tells whether no key is wanted: only the kind of value that is found here matters.
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_prefix_swallows_longer_ones() {
        let mut prefixes = Prefixes::default();
        prefixes.insert(["spec", "replicas"]);
        prefixes.insert(["spec"]);
        prefixes.insert(["spec", "template"]);
        assert!(prefixes.get("spec").unwrap().is_whole());
        assert!(prefixes.get("spec").unwrap().is_empty());
        assert!(prefixes.get("status").is_none());
    }

    #[test]
    fn merging_is_inserting_all() {
        let mut left = Prefixes::default();
        left.insert(["metadata", "name"]);
        left.insert(["spec", "a"]);
        let mut right = Prefixes::default();
        right.insert(["metadata"]);
        right.insert(["spec", "b"]);
        left.merge(&right);
        assert!(left.get("metadata").unwrap().is_whole());
        assert_eq!(left.get("spec").unwrap().len(), 2);
    }

    #[test]
    fn what_is_wanted_of_a_release_outlives_wanting_the_whole_object() {
        let mut left = Prefixes::default();
        left.take_all();
        let mut right = Prefixes::default();
        right.release().insert(["info", "status"]);
        left.merge(&right);
        assert!(left.is_whole());
        assert!(left.of_release().unwrap().get("info").unwrap().get("status").unwrap().is_whole());
    }
}
