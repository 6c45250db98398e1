//! The ground that tests stand on: a shared lab, and in it a namespace and a database for each test alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kollect::lab::operator::OperatorOptions;
use kollect::lab::postgres::Database;
use kollect::lab::{ControlPlane, Lab, LabOptions, Operator, Postgres, tools};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// One test's part of a lab.
pub(crate) struct Ground {
    lab: LabRef,
    /// An administrator's client.
    pub(crate) client: Client,
    /// The namespace of this test.
    pub(crate) namespace: String,
    /// The database of this test.
    pub(crate) database: String,
}

/// A lab that is shared by all tests of this process, or that belongs to one.
enum LabRef {
    Shared(&'static Lab),
    Own(Box<Lab>),
}

static SHARED: OnceCell<Result<Lab, String>> = OnceCell::const_new();
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// Starts a lab, or says why this machine has none. In CI that fails the test; on a laptop the test is skipped.
pub(crate) async fn lab_or_skip(options: LabOptions) -> Option<Lab> {
    match start(options).await {
        Ok(lab) => Some(lab),
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

/// Returns a part that a test starts by itself, or says why this machine has none.
pub(crate) fn part_or_skip<T>(part: Result<T>) -> Option<T> {
    part.map_err(|error| skip(&format!("{error:#}"))).ok()
}

impl Ground {
    /// Returns ground in the lab that all tests share, or `None` to skip.
    pub(crate) async fn shared(name: &str) -> Option<Self> {
        match SHARED.get_or_init(|| start(LabOptions::default())).await {
            Ok(lab) => Some(Self::on(LabRef::Shared(lab), name).await.expect("failed to prepare the test's ground")),
            Err(reason) => {
                skip(reason);
                None
            }
        }
    }

    /// Returns ground in a lab of its own, for a test that takes parts away; costs five seconds and half a gigabyte.
    pub(crate) async fn own(name: &str) -> Option<Self> {
        let lab = lab_or_skip(LabOptions::default()).await?;
        Some(Self::on(LabRef::Own(Box::new(lab)), name).await.expect("failed to prepare the test's ground"))
    }

    async fn on(lab: LabRef, name: &str) -> Result<Self> {
        let client = lab.get().api().client().await?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let database = format!("{}_{number}", name.replace('-', "_"));
        lab.get().postgres().create_database(&database).await?;
        let ground = Self { lab, client, namespace: format!("{name}-{number}"), database };
        ground.create_namespace(&ground.namespace).await?;
        Ok(ground)
    }

    /// Returns the lab.
    pub(crate) fn lab(&self) -> &Lab {
        self.lab.get()
    }

    /// Returns the control plane.
    pub(crate) fn api(&self) -> &ControlPlane {
        self.lab().api()
    }

    /// Returns the database server.
    pub(crate) fn postgres(&self) -> &Postgres {
        self.lab().postgres()
    }

    /// Connects to the test's database.
    pub(crate) async fn connect(&self) -> Database {
        self.postgres().connect(&self.database).await.expect("the test's database does not answer")
    }

    /// Returns the connection string of the test's database.
    pub(crate) fn dsn(&self) -> String {
        self.postgres().dsn(&self.database)
    }

    /// Creates another namespace.
    pub(crate) async fn create_namespace(&self, name: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("failed to create {name}"))?;
        Ok(())
    }

    /// Returns how to start an operator for this test: the built binary with the operator's rights. Only in a lab of
    /// its own, where no other operator sees the same objects.
    pub(crate) fn operator_options(&self) -> OperatorOptions {
        let log = self.lab().dir().join(format!("kollect-{}.log", self.namespace));
        assert!(matches!(self.lab, LabRef::Own(_)), "an operator takes a lab of its own");
        OperatorOptions::new(env!("CARGO_BIN_EXE_kollect"), self.api().operator_kubeconfig(), log)
    }

    /// Starts an operator and waits until it is ready.
    pub(crate) async fn start_operator(&self, options: &OperatorOptions) -> Operator {
        let guard = Arc::clone(self.lab().guard());
        Operator::start(options, &guard).await.expect("the operator does not get ready")
    }
}

impl LabRef {
    fn get(&self) -> &Lab {
        match self {
            Self::Shared(lab) => lab,
            Self::Own(lab) => lab,
        }
    }
}

/// A kind that a test brings along, served as `v1`.
pub(crate) struct Definition<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) scope: &'a str,
    /// What objects look like, as YAML.
    pub(crate) schema: &'a str,
}

impl Default for Definition<'_> {
    /// Objects of any shape, in namespaces.
    fn default() -> Self {
        let schema = "{type: object, x-kubernetes-preserve-unknown-fields: true}";
        Self { group: "test.kollect.dev", kind: "", plural: "", scope: "Namespaced", schema }
    }
}

impl Definition<'_> {
    /// Returns the manifest, which others may follow.
    pub(crate) fn manifest(&self) -> String {
        let Self { group, kind, plural, scope, schema } = self;
        let schema: Value = serde_saphyr::from_str(schema).expect("a schema");
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
        let names = json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase()});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": scope, "names": names, "versions": [version]},
        });
        format!("{definition}\n---\n")
    }
}

/// Returns a file of this source tree.
pub(crate) fn repository_file(path: &str) -> PathBuf {
    tools::repository_file(path)
}

async fn start(options: LabOptions) -> Result<Lab, String> {
    let wants_crds = options.control_plane;
    let lab = Lab::start(options).await.map_err(|error| format!("{error:#}"))?;
    let crds = repository_file("crds");
    if wants_crds && crds.exists() {
        lab.api().apply_crds(&crds).map_err(|error| format!("{error:#}"))?;
    }
    Ok(lab)
}

#[expect(clippy::disallowed_methods, reason = "tests are no part of the operator whose environment config reads")]
fn skip(reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "the lab did not start: {reason}");
    eprintln!("SKIPPED, because the lab did not start: {reason}");
}
