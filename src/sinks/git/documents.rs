//! An inventory as a document: the sink of the layout `document`, and of sinks without a layout.
//!
//! Everything is rendered each time, and compared by id with what the branch has; what differs only in when it was written
//! is no difference. So a document that is published again costs a look at the remote, and no commit.

use std::collections::HashMap;
use std::panic::resume_unwind;

use futures::FutureExt;
use futures::future::BoxFuture;
use git2::Oid;

use super::GitSink;
use super::actor::{Change, Edit, Holding, State};
use super::error::GitError;
use crate::export::layout::Rendered;
use crate::export::{Document, File, FilePath};
use crate::sinks::{DocumentSink, Receipt, SinkError};

impl GitSink {
    async fn render(&self, document: &Document) -> Result<Rendered, GitError> {
        let (layout, document) = (self.layout.clone(), document.clone());
        let rendered = tokio::task::spawn_blocking(move || layout.document(&document)).await;
        Ok(rendered.unwrap_or_else(|error| resume_unwind(error.into_panic()))?)
    }

    /// Compares what is there with what would be written; when it was written is no difference.
    async fn has_all(&self, document: &Document) -> Result<bool, GitError> {
        let rendered = self.render(document).await?;
        let holdings = self.actor.owned(document.scope.clone()).await?;
        let files = wanted(document, rendered.files, &holdings);
        if files.len() != holdings.len() || holdings.iter().any(|holding| holding.state == State::Altered) {
            return Ok(false);
        }
        let there: HashMap<&FilePath, Oid> = holdings.iter().map(|holding| (&holding.path, holding.blob)).collect();
        let blobs: Option<Vec<Oid>> = files.iter().map(|file| there.get(&file.path).copied()).collect();
        let Some(blobs) = blobs else { return Ok(false) };
        let contents = self.actor.blobs(blobs).await?;
        Ok(files.iter().zip(contents).all(|(file, there)| file.text.says_the_same(&there)))
    }

    async fn publish_all(&self, document: &Document) -> Result<Receipt, GitError> {
        let scope = document.scope.clone();
        self.settle(&scope)?;
        let rendered = self.render(document).await?;
        let facts = self.facts(&scope, &document.standing, rendered.checksum.to_string(), document.exported_at)?;
        // Whoever publishes wants to know what is there, not what this process left there.
        let holdings = self.actor.owned(scope.clone()).await?;
        let files = wanted(document, rendered.files, &holdings);
        let change = self.change(document, files, holdings)?;
        let outcome = self.actor.submit(Edit { scope, change, facts }).await?;
        if let Some((path, other)) = outcome.conflicts.into_iter().next() {
            return Err(GitError::PathConflict { path, other });
        }
        let refused = rendered.refused.into_iter().map(Into::into).collect();
        let checksum = Some(rendered.set_checksum.to_string());
        Ok(Receipt { written: outcome.written, deleted: outcome.deleted, bytes: outcome.bytes, refused, checksum })
    }

    /// Says what becomes of the files that are not written any more. Without pruning, what was written under an earlier
    /// path stays; parts of this document, and files of its rows, go in any case.
    fn change(&self, document: &Document, files: Vec<File>, holdings: Vec<Holding>) -> Result<Change, GitError> {
        if self.prune {
            return Ok(Change::Whole(files));
        }
        let (inventory, generation) = (&document.scope.inventory, document.standing.generation);
        let mut released = Vec::new();
        for Holding { path, .. } in holdings {
            if !files.iter().any(|file| file.path == path) && !self.layout.writes(inventory, generation, &path)? {
                released.push(path);
            }
        }
        Ok(Change::Successor { files, released })
    }
}

/// Returns the files to have: an inventory that never had a row has none, so that its first commit, after which the interval
/// begins, is one with rows.
fn wanted(document: &Document, files: Vec<File>, holdings: &[Holding]) -> Vec<File> {
    if document.rows.is_empty() && holdings.is_empty() { Vec::new() } else { files }
}

impl DocumentSink for GitSink {
    fn has<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<bool, SinkError>> {
        async move { Ok(self.has_all(document).await?) }.boxed()
    }

    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        async move { Ok(self.publish_all(document).await?) }.boxed()
    }
}
