//! The part of the cluster that the process may look at.

use std::collections::BTreeSet;

use crate::model::Namespace;

/// The part of the cluster that the process may look at: the outermost filter of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// All of it.
    Cluster,
    /// These namespaces. Nothing is asked for that takes more than rights in them; none of them stands for the namespace
    /// of the process.
    Namespaces(BTreeSet<Namespace>),
}

impl Bound {
    /// Reads the flags: namespaces bind, and so does tenant mode by itself.
    pub(super) fn new(tenancy: Tenancy, namespaces: &[String]) -> Self {
        if tenancy == Tenancy::Platform && namespaces.is_empty() {
            return Self::Cluster;
        }
        Self::Namespaces(namespaces.iter().map(|name| Namespace::new(name.as_str())).collect())
    }

    /// Puts the namespace of the process in, where it was told none.
    #[must_use]
    pub fn settled(self, home: &Namespace) -> Self {
        match self {
            Self::Namespaces(names) if names.is_empty() => Self::Namespaces(BTreeSet::from([home.clone()])),
            settled => settled,
        }
    }

    /// Tells whether a namespace is within.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Cluster => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}

/// Who gives the process its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenancy {
    /// The cluster: it may have rights everywhere.
    Platform,
    /// Namespaces: it has rights nowhere else, and does not try.
    Tenant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_bind_and_tenant_mode_binds_to_the_own_one_when_it_is_told_none() {
        let home = Namespace::new("ops");
        let bound = |tenancy, names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Bound::new(tenancy, &names).settled(&home)
        };
        let within =
            |names: &[&'static str]| Bound::Namespaces(names.iter().map(|name| Namespace::new(*name)).collect());
        assert_eq!(bound(Tenancy::Platform, &[]), Bound::Cluster);
        assert_eq!(bound(Tenancy::Tenant, &[]), within(&["ops"]));
        for tenancy in [Tenancy::Platform, Tenancy::Tenant] {
            assert_eq!(bound(tenancy, &["b", "a"]), within(&["a", "b"]));
        }
        assert!(Bound::Cluster.contains(&home) && !within(&["a"]).contains(&home));
    }
}
