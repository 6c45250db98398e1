//! What a sink would write to its repository, as text for people. Nothing is connected.

use super::config::MessageTemplate;
use crate::api::v1alpha1::SinkCommon;
use crate::api::v1alpha1::sink::{Format, LayoutContent, LayoutMode, Preview, PreviewGit, PreviewLayout};
use crate::export::layout::{DEFAULT_CLUSTER, Layout, LayoutError, LayoutSpec};
use crate::model::Name;
use crate::validate::ValidatedGit;

/// Checksum of the example.
const CHECKSUM: &str = "2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4";

/// Renders the paths and the commit of an example: inventory `team-a/api`, generation 1, with 42 items.
pub fn preview(sink: &ValidatedGit, common: &SinkCommon, name: &Name) -> Result<Preview, LayoutError> {
    let spec = LayoutSpec::of(common);
    let (mode, content, format) = (spec.mode.unwrap_or_default(), spec.content, spec.format);
    let examples = Layout::new(spec)?.examples()?;
    let (document, files) = (examples.document.to_string(), examples.files);
    let cluster = if sink.cluster.is_empty() { DEFAULT_CLUSTER } else { sink.cluster.as_str() };
    let facts = [
        ("cluster", cluster),
        ("namespace", "team-a"),
        ("name", "api"),
        ("generation", "1"),
        ("exportGeneration", "1"),
        ("itemCount", "42"),
        ("checksum", CHECKSUM),
        ("checksumShort", CHECKSUM.get(..12).unwrap_or(CHECKSUM)),
        ("exportedAt", "2026-01-01T00:00:00Z"),
        ("sink", name.as_str()),
        ("path", document.as_str()),
    ];
    let subject = sink.subject.clone().unwrap_or_else(|| MessageTemplate::default().subject);
    let rest: Vec<String> = sink.body.iter().chain(&sink.trailers).map(|text| fill(text.trim(), &facts)).collect();
    Ok(Preview {
        serialization_format: match format {
            Format::Json => "json",
            Format::Ndjson => "ndjson",
            Format::Yaml | Format::Parquet | Format::Csv => "yaml",
        }
        .to_owned(),
        git: Some(PreviewGit {
            sample_commit_subject: fill(subject.trim(), &facts),
            sample_commit_body: rest.join("\n\n"),
        }),
        layout: Some(PreviewLayout {
            mode: match mode {
                LayoutMode::Document => "document",
                LayoutMode::PerResource => "perResource",
                LayoutMode::Split => "split",
            }
            .to_owned(),
            content: match content {
                LayoutContent::Item => "item",
                LayoutContent::Attributes => "attributes",
                LayoutContent::Manifest => "manifest",
            }
            .to_owned(),
            prune: sink.prune,
            sample_paths: files.iter().map(ToString::to_string).collect(),
        }),
        object_path: document,
        ..Preview::default()
    })
}

/// Fills placeholders in; braces around anything else stay.
fn fill(template: &str, facts: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let value = after.split_once('}').and_then(|(name, tail)| {
            let (_, value) = facts.iter().find(|(known, _)| *known == name)?;
            Some((value, tail))
        });
        if let Some((value, tail)) = value {
            filled.push_str(value);
            rest = tail;
        } else {
            filled.push('{');
            rest = after;
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rendered(more: &Value) -> Preview {
        let mut spec = json!({"type": "git", "endpoint": "https://git.example.com/team/x.git"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: crate::api::v1alpha1::KollectSnapshotSinkSpec = serde_json::from_value(spec).unwrap();
        preview(&crate::validate::git(&spec).unwrap(), &spec.common, &Name::new("audit")).unwrap()
    }

    #[test]
    fn a_document_has_one_path_and_the_commit_of_the_reference() {
        let shown = rendered(&json!({}));
        assert_eq!(shown.object_path, "inventory/team-a/api.yaml");
        assert_eq!(shown.serialization_format, "yaml");
        let git = shown.git.unwrap();
        assert_eq!(git.sample_commit_subject, "chore(default/team-a/api): export 42 items @ 2074c303768e");
        assert_eq!(git.sample_commit_body, "");
        let layout = shown.layout.unwrap();
        assert_eq!((layout.mode.as_str(), layout.content.as_str(), layout.prune), ("document", "item", false));
        assert_eq!(layout.sample_paths, ["inventory/team-a/api.yaml"]);
    }

    #[test]
    fn templates_of_paths_and_commits_are_filled_in() {
        let shown = rendered(&json!({
            "cluster": "west",
            "pathTemplate": "clusters/{cluster}/{namespace}/{name}{extension}",
            "serialization": {"format": "json"},
            "git": {
                "commitMessage": "{path} by {sink}",
                "commitBody": "gen {generation} at {exportedAt} {}",
                "commitTrailers": ["Cluster: {cluster}", "Checksum: {checksum}"],
            },
        }));
        assert_eq!(shown.object_path, "clusters/west/team-a/api.json");
        let git = shown.git.unwrap();
        assert_eq!(git.sample_commit_subject, "clusters/west/team-a/api.json by audit");
        let body = format!("gen 1 at 2026-01-01T00:00:00Z {{}}\n\nCluster: west\n\nChecksum: {CHECKSUM}");
        assert_eq!(git.sample_commit_body, body);
        let gitlab = rendered(&json!({"type": "gitlab"})).git.unwrap();
        assert_eq!(gitlab.sample_commit_subject, "kollect: export inventory");
    }

    #[test]
    fn a_tree_shows_at_most_three_paths() {
        let layout =
            json!({"mode": "split", "content": "attributes", "pathTemplate": "{cluster}/{group}/{sourceName}"});
        let shown = rendered(&json!({"cluster": "west", "layout": layout})).layout.unwrap();
        assert_eq!((shown.mode.as_str(), shown.content.as_str(), shown.prune), ("split", "attributes", true));
        assert_eq!(shown.sample_paths, ["west/apps/api", "west/apps/web", "inventory/team-a/api.yaml"]);
    }
}
