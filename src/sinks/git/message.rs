//! Texts of commits.

use std::sync::Arc;

use jiff::Timestamp;

use super::config::MessageTemplate;
use crate::export::Scope;
use crate::model::Name;

/// What a commit message may tell.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The texts, with placeholders.
    pub(super) template: Arc<MessageTemplate>,
    /// `{sink}`.
    pub(super) sink: Name,
    /// `{generation}` and `{exportGeneration}`.
    pub(super) generation: i64,
    /// `{itemCount}`.
    pub(super) item_count: u64,
    /// `{checksum}`, in hex; its first 12 digits are `{checksumShort}`.
    pub(super) checksum: String,
    /// `{exportedAt}`, shown in seconds.
    pub(super) exported_at: Timestamp,
    /// `{path}`: of the document, also where the files are many.
    pub(super) path: String,
}

impl Facts {
    /// Returns the message of the commit: subject, body and trailers, each a paragraph of its own.
    pub(super) fn message(&self, scope: &Scope) -> String {
        let template = &self.template;
        let subject = self.fill(scope, &template.subject);
        let mut message = one_line(&subject);
        for paragraph in template.body.iter().chain(&template.trailers) {
            let paragraph = self.fill(scope, paragraph);
            let paragraph = paragraph.trim_end();
            if !paragraph.trim().is_empty() {
                message.push_str("\n\n");
                message.push_str(paragraph);
            }
        }
        message.push('\n');
        message.replace('\0', " ")
    }

    /// Fills the placeholders in. A text in braces that is none stays as it is.
    fn fill(&self, scope: &Scope, template: &str) -> String {
        let mut filled = String::with_capacity(template.len() + 64);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let value = after.split_once('}').and_then(|(name, tail)| Some((self.value(scope, name)?, tail)));
            if let Some((value, tail)) = value {
                // A value is a word in a line, whatever somebody wrote into it.
                filled.push_str(&one_line(&value));
                rest = tail;
            } else {
                filled.push('{');
                rest = after;
            }
        }
        filled.push_str(rest);
        filled
    }

    fn value(&self, scope: &Scope, name: &str) -> Option<String> {
        Some(match name {
            "cluster" if scope.cluster.is_empty() => "default".to_owned(),
            "cluster" => scope.cluster.to_string(),
            "namespace" => scope.inventory.namespace.to_string(),
            "name" => scope.inventory.name.to_string(),
            "generation" | "exportGeneration" => self.generation.to_string(),
            "itemCount" => self.item_count.to_string(),
            "checksum" => self.checksum.clone(),
            "checksumShort" => self.checksum.chars().take(12).collect(),
            "exportedAt" => self.exported_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "sink" => self.sink.to_string(),
            "path" => self.path.clone(),
            _ => return None,
        })
    }
}

/// Returns the text on one line.
fn one_line(text: &str) -> String {
    text.trim().replace(['\r', '\n', '\u{85}', '\u{2028}', '\u{2029}'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cluster, InventoryKey, Namespace, Uid};

    fn scope() -> Scope {
        Scope {
            cluster: Cluster::new("west"),
            inventory: InventoryKey::new(Namespace::new("team-a"), Name::new("apps")),
            inventory_uid: Uid::new("u"),
        }
    }

    fn facts(template: MessageTemplate) -> Facts {
        Facts {
            template: Arc::new(template),
            sink: Name::new("git-audit"),
            generation: 4,
            item_count: 3,
            checksum: "2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4".to_owned(),
            exported_at: "2026-03-01T10:20:30.5Z".parse().unwrap(),
            path: "inventory/team-a/apps.yaml".to_owned(),
        }
    }

    #[test]
    fn subject_body_and_trailers_are_paragraphs() {
        let template = MessageTemplate {
            body: Some("gen {generation} items {itemCount}".to_owned()),
            trailers: vec!["Kollect-Checksum: {checksum}".to_owned(), "Kollect-Sink: {sink}".to_owned()],
            ..MessageTemplate::default()
        };
        assert_eq!(
            facts(template).message(&scope()),
            "chore(west/team-a/apps): export 3 items @ 2074c303768e\n\ngen 4 items 3\n\nKollect-Checksum: \
             2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4\n\nKollect-Sink: git-audit\n"
        );
    }

    #[test]
    fn every_placeholder_has_a_value_and_other_braces_stay() {
        let subject = "{cluster} {namespace} {name} {generation} {exportGeneration} {itemCount} {checksumShort} \
                       {exportedAt} {sink} {path} {other} {";
        let template = MessageTemplate { subject: subject.to_owned(), ..MessageTemplate::default() };
        assert_eq!(
            facts(template).message(&Scope { cluster: Cluster::new(""), ..scope() }),
            "default team-a apps 4 4 3 2074c303768e 2026-03-01T10:20:30Z git-audit inventory/team-a/apps.yaml {other} {\n"
        );
    }

    #[test]
    fn a_value_does_not_break_the_subject() {
        let template = MessageTemplate { subject: "a\n{path}".to_owned(), ..MessageTemplate::default() };
        let facts = Facts { path: "x\r\ny{name}".to_owned(), ..facts(template) };
        assert_eq!(facts.message(&scope()), "a x  y{name}\n");
    }
}
