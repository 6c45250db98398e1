//! Which parts of an object a set of programs reads: a trie of map keys.
//!
//! List elements share the node of their list, so `spec.containers.image` stands for the image of every container.

/// A node of the trie; the root stands for the object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    whole: bool,
    children: Vec<(Box<str>, Prefixes)>,
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

    /// Adds all that another set wants.
    pub fn merge(&mut self, other: &Prefixes) {
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
}
