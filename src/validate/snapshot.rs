//! `KollectSnapshotSink` of the types `git` and `gitlab`.

use std::num::NonZeroU32;

use super::endpoint::{self, Transport};
use super::sink::{Probe, common};
use super::{Duration, FieldErrors, FieldPath, Findings, template};
use crate::api::v1alpha1::sink::{Compression, Format, Layout, LayoutContent, LayoutMode, ProvisioningMode, Tls};
use crate::api::v1alpha1::snapshot_sink::{Git, GitAuthType, PushPolicy};
use crate::api::v1alpha1::{KollectSnapshotSinkSpec, SecretRef, SnapshotSinkType};
use crate::metrics::SinkType;
use crate::model::Cluster;

/// Branch of an endpoint that names none.
const BRANCH: &str = "main";
/// First line of every commit of a sink of type `gitlab`, which has no templates.
const GITLAB_SUBJECT: &str = "kollect: export inventory";
/// The most trailers of a commit.
const MAX_TRAILERS: usize = 32;

/// A repository whose settings are understood; its credentials are in a Secret and not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedGit {
    /// `git` or `gitlab`.
    pub kind: SinkType,
    /// Address as written.
    pub endpoint: String,
    /// How it is spoken to, which also says how the operator logs in.
    pub transport: Transport,
    /// The branch in effect.
    pub branch: String,
    /// How the branch is moved.
    pub push: PushPolicy,
    /// `spec.secretRef`; an empty namespace is that of the sink.
    pub secret_ref: Option<SecretRef>,
    /// `spec.git.auth.secretRef`, which wins.
    pub auth_secret_ref: Option<SecretRef>,
    /// Whether credentials go out with the first request, if the sink says it.
    pub force_basic_auth: Option<bool>,
    /// Trust settings, as written.
    pub tls: Tls,
    /// Depth of what is fetched.
    pub depth: NonZeroU32,
    /// Author and committer, if the sink says it.
    pub author_name: Option<String>,
    /// Mail address of the author, if the sink says it.
    pub author_email: Option<String>,
    /// First line of a commit, if the sink says it.
    pub subject: Option<String>,
    /// What follows it.
    pub body: Option<String>,
    /// What comes last.
    pub trailers: Vec<String>,
    /// Whether files that are no longer written are removed.
    pub prune: bool,
    /// What keeps the operators of a fleet apart; may be empty.
    pub cluster: Cluster,
    /// The least time between two writes, if the sink says it.
    pub min_interval: Option<std::time::Duration>,
    /// Whether a change of the sink probes it.
    pub probe: Probe,
    /// Remarks that do not stop the sink, such as a setting without effect.
    pub warnings: Vec<String>,
}

/// Checks a sink of type `git` or `gitlab`.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn git(spec: &KollectSnapshotSinkSpec) -> Result<ValidatedGit, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    common(&mut findings, &spec.common);
    let kind = if spec.type_ == SnapshotSinkType::Gitlab { SinkType::Gitlab } else { SinkType::Git };
    blocks(&mut findings, spec);
    let address = address(&mut findings, spec);
    let git = spec.git.clone().unwrap_or_default();
    let block = root.field("git");
    let auth = git.auth.clone().unwrap_or_default();
    login(&mut findings, spec, address.transport, auth.type_);
    for (path, secret) in
        [(root.field("secretRef"), &spec.common.secret_ref), (block.field("auth").field("secretRef"), &auth.secret_ref)]
    {
        if secret.as_ref().is_some_and(|secret| secret.name.trim().is_empty()) {
            findings.add(path.field("name"), "is blank; name the Secret with the credentials, or remove the reference");
        }
    }
    let depth = git.clone_depth.unwrap_or(1);
    let depth = u32::try_from(depth).ok().and_then(NonZeroU32::new).unwrap_or_else(|| {
        findings.add(block.field("cloneDepth"), format!("{depth} is out of range; write 1 or more"));
        NonZeroU32::MIN
    });
    let author = git.author.clone().unwrap_or_default();
    for (field, text) in [("name", &author.name), ("email", &author.email)] {
        person(&mut findings, block.field("author").field(field), text.as_deref());
    }
    messages(&mut findings, &git);
    if let Some(template) = &spec.common.path_template {
        template::document_path(&mut findings, &root.field("pathTemplate"), template);
    }
    layout(&mut findings, spec.common.layout.as_ref());
    format(&mut findings, spec);
    let mode = spec.common.layout.as_ref().map(|layout| layout.mode);
    let gitlab = (kind == SinkType::Gitlab).then(|| GITLAB_SUBJECT.to_owned());
    let mut validated = ValidatedGit {
        kind,
        endpoint: address.endpoint,
        transport: address.transport,
        branch: address.branch,
        push: git.push_policy.unwrap_or_default(),
        secret_ref: spec.common.secret_ref.clone(),
        auth_secret_ref: auth.secret_ref,
        force_basic_auth: git.force_basic_auth,
        tls: spec.common.tls.clone().unwrap_or_default(),
        depth,
        author_name: author.name,
        author_email: author.email,
        subject: gitlab.or(git.commit_message),
        body: git.commit_body.filter(|body| !body.trim().is_empty()),
        trailers: git.commit_trailers,
        prune: is_tree(mode) || git.prune.unwrap_or_default(),
        cluster: Cluster::new(spec.common.cluster.clone().unwrap_or_default()),
        min_interval: spec.common.export_min_interval.map(Duration::get),
        probe: Probe::of(spec.common.connection_test),
        warnings: Vec::new(),
    };
    validated.warnings = remarks(spec, &validated, address.remarks);
    findings.give(validated)
}

fn is_tree(mode: Option<LayoutMode>) -> bool {
    matches!(mode, Some(LayoutMode::PerResource | LayoutMode::Split))
}

/// Blocks that belong to other types.
fn blocks(findings: &mut Findings, spec: &KollectSnapshotSinkSpec) {
    let gitlab = spec.type_ == SnapshotSinkType::Gitlab;
    for (field, stray, owner) in [
        ("git", gitlab && spec.git.is_some(), "type git"),
        ("gitlab", !gitlab && spec.gitlab.is_some(), "type gitlab"),
        ("objectStore", spec.object_store.is_some(), "the types s3 and gcs"),
    ] {
        if stray {
            findings.add(FieldPath::spec().field(field), format!("is allowed only for {owner}; remove it"));
        }
    }
    if spec.http.is_some() {
        findings.add(FieldPath::spec().field("http"), "is not allowed; remove it");
    }
}

/// What the endpoint says, or stands for it where it says nothing.
struct Address {
    endpoint: String,
    transport: Transport,
    branch: String,
    remarks: Vec<String>,
}

fn address(findings: &mut Findings, spec: &KollectSnapshotSinkSpec) -> Address {
    let path = FieldPath::spec().field("endpoint");
    let own = spec.git.as_ref().and_then(|git| git.branch.as_deref());
    if let Some(branch) = own
        && let Some(wrong) = endpoint::wrong_branch(branch)
    {
        findings.add(FieldPath::spec().field("git").field("branch"), format!("{branch:?} {wrong}"));
    }
    let endpoint = spec.common.endpoint.as_deref().unwrap_or_default().trim().to_owned();
    let mut address = Address {
        transport: Transport::Http,
        branch: own.unwrap_or(BRANCH).to_owned(),
        remarks: Vec::new(),
        endpoint: endpoint.clone(),
    };
    if endpoint.is_empty() {
        let message = "is missing; write the address of the repository, such as https://git.example.com/team/x.git";
        findings.add_for_use(path, message);
        return address;
    }
    let repository = match endpoint::repository(&endpoint) {
        Ok(repository) => repository,
        Err(message) => {
            findings.add(path, message);
            return address;
        }
    };
    address.transport = repository.transport;
    if spec.type_ == SnapshotSinkType::Gitlab && repository.transport == Transport::Ssh {
        findings.add_for_use(path.clone(), "is not for type gitlab; write https://, or use type git for SSH");
    }
    if let Some(branch) = repository.branch {
        if let Some(wrong) = endpoint::wrong_branch(branch) {
            findings.add(path.clone(), format!("the branch in it {wrong}"));
        }
        if own.is_none() {
            branch.clone_into(&mut address.branch);
        } else if own != Some(branch) {
            address.remarks.push(format!("{path}: the branch in it has no effect beside spec.git.branch"));
        }
    }
    if repository.user_info {
        address.remarks.push(format!("{path}: user and password in it are ignored; put them into a Secret"));
    }
    if repository.plain {
        address.remarks.push(format!("{path}: http:// sends rows and credentials in plain text; write https://"));
    }
    address
}

/// How the operator logs in follows from the address; a contradiction, or SSH without a key, is refused.
fn login(findings: &mut Findings, spec: &KollectSnapshotSinkSpec, transport: Transport, named: Option<GitAuthType>) {
    let path = FieldPath::spec().field("git").field("auth");
    match (transport, named) {
        (Transport::Ssh, Some(GitAuthType::Token)) => {
            findings.add_for_use(path.field("type"), "token does not fit an ssh endpoint; remove it or write ssh");
        }
        (Transport::Http, Some(GitAuthType::Ssh)) => {
            findings.add_for_use(path.field("type"), "ssh does not fit an http endpoint; remove it or write token");
        }
        _ => {}
    }
    let own = spec.git.as_ref().and_then(|git| git.auth.as_ref()).is_some_and(|auth| auth.secret_ref.is_some());
    let secret = spec.common.secret_ref.is_some() || own;
    if transport == Transport::Ssh && !secret && spec.type_ == SnapshotSinkType::Git {
        let message = "is missing; an ssh endpoint needs a Secret with the keys ssh-privatekey and known_hosts";
        findings.add_for_use(FieldPath::spec().field("secretRef"), message);
    }
}

fn person(findings: &mut Findings, path: FieldPath, text: Option<&str>) {
    let Some(text) = text else { return };
    if text.trim().is_empty() {
        findings.add(path, "is blank; remove it or write a name");
    } else if text.contains(|c: char| c.is_control() || c == '<' || c == '>') {
        findings.add(path, "has '<', '>' or a line break, which git does not take; remove it");
    }
}

fn messages(findings: &mut Findings, git: &Git) {
    let block = FieldPath::spec().field("git");
    if let Some(subject) = &git.commit_message {
        let path = block.field("commitMessage");
        if subject.trim().is_empty() {
            findings.add(path.clone(), "is blank; remove it or write one line");
        } else if subject.trim().contains('\n') {
            findings.add(path.clone(), "has a line break; keep the first line and put the rest into commitBody");
        }
        template::commit_text(findings, &path, subject);
    }
    if let Some(body) = &git.commit_body {
        template::commit_text(findings, &block.field("commitBody"), body);
    }
    let trailers = block.field("commitTrailers");
    if git.commit_trailers.len() > MAX_TRAILERS {
        findings.add(trailers.clone(), format!("has more than {MAX_TRAILERS} entries; remove some"));
    }
    for (index, trailer) in git.commit_trailers.iter().enumerate() {
        let path = trailers.index(index);
        if trailer.trim().is_empty() {
            findings.add(path.clone(), "is blank; remove it");
        }
        template::commit_text(findings, &path, trailer);
    }
}

fn layout(findings: &mut Findings, layout: Option<&Layout>) {
    let Some(layout) = layout else { return };
    let path = FieldPath::spec().field("layout");
    if let Some(template) = &layout.path_template {
        template::row_path(findings, &path.field("pathTemplate"), template);
    }
    if let Some(template) = layout.index.as_ref().and_then(|index| index.path_template.as_deref()) {
        template::document_path(findings, &path.field("index").field("pathTemplate"), template);
    }
    if let Some(length) = layout.filename.as_ref().and_then(|filename| filename.max_segment_length)
        && length < 1
    {
        let path = path.field("filename").field("maxSegmentLength");
        findings.add(path, format!("{length} is out of range; write 1 or more"));
    }
}

fn format(findings: &mut Findings, spec: &KollectSnapshotSinkSpec) {
    let format = spec.common.serialization.as_ref().and_then(|serialization| serialization.format);
    if matches!(format, Some(Format::Parquet | Format::Csv)) {
        let path = FieldPath::spec().field("serialization").field("format");
        findings.add(path, "does not fit a repository; write yaml, json or ndjson");
    }
}

/// Returns what does not stop the sink and is worth knowing.
fn remarks(spec: &KollectSnapshotSinkSpec, sink: &ValidatedGit, mut remarks: Vec<String>) -> Vec<String> {
    let common = &spec.common;
    let (layout, path) = (common.layout.as_ref(), common.path_template.as_deref());
    let tree = is_tree(layout.map(|layout| layout.mode));
    let tls = common.tls.as_ref();
    let certificates = tls
        .is_some_and(|tls| tls.ca_bundle.is_some() || tls.ca_secret_ref.is_some() || tls.client_secret_ref.is_some());
    let compressed = common.serialization.as_ref().and_then(|serialization| serialization.compression);
    let provisioning = common.provisioning.as_ref().and_then(|provisioning| provisioning.mode);
    let indexed = layout.is_some_and(|layout| {
        layout.mode != LayoutMode::Split && layout.index.as_ref().is_some_and(|index| index.enabled == Some(true))
    });
    let content = layout.is_some_and(|layout| !tree && layout.content != LayoutContent::Item);
    let format = common.serialization.as_ref().and_then(|serialization| serialization.format);
    let other_name =
        !tree && format != Some(Format::Json) && path.is_some_and(|path| path.strip_suffix(".json").is_some());
    let alone = !tree && !sink.cluster.is_empty() && !path.is_some_and(|path| path.contains("{cluster}"));
    let off = spec.git.as_ref().is_some_and(|git| git.prune == Some(false));
    for (said, remark) in [
        (
            sink.push == PushPolicy::ForcePush,
            "spec.git.pushPolicy: ForcePush overwrites what others pushed; write Commit unless the branch is ours alone",
        ),
        (
            compressed.is_some_and(|compression| compression != Compression::None),
            "spec.serialization.compression: without effect, nothing is compressed; remove it",
        ),
        (
            provisioning == Some(ProvisioningMode::Existing),
            "spec.provisioning.mode: without effect, a repository is never created and a missing branch always",
        ),
        (
            certificates && sink.transport == Transport::Ssh,
            "spec.tls: certificates have no effect over SSH; host keys are checked by known_hosts of the Secret",
        ),
        (
            tls.is_some_and(|tls| tls.insecure_skip_verify),
            "spec.tls.insecureSkipVerify: neither certificate nor host key are checked; for tests only",
        ),
        (indexed, "spec.layout.index.enabled: without effect, only mode split writes an index"),
        (content, "spec.layout.content: without effect in mode document"),
        (path.is_some() && tree, "spec.pathTemplate: without effect beside spec.layout.pathTemplate in this mode"),
        (other_name, "spec.pathTemplate: ends in .json while another format is written; use {extension}"),
        (
            alone,
            "spec.pathTemplate: has no {cluster}, so the clusters of a fleet write to one file; \
             write clusters/{cluster}/{namespace}/{name}{extension}",
        ),
        (off && tree, "spec.git.prune: without effect, files of rows that are gone always go in this mode"),
    ] {
        if said {
            remarks.push(remark.to_owned());
        }
    }
    let options = common.options.keys();
    remarks.extend(options.map(|key| format!("spec.options.{key}: unknown, ignored; repositories know no options")));
    remarks
}

#[cfg(test)]
mod tests;
