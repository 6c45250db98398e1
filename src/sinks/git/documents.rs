//! An inventory as a document: the sink of the layout `document`, and of sinks without a layout.
//!
//! Everything is rendered each time, and compared by id with what the branch has; what differs only in when it was written
//! is no difference. So a document that is published again costs a look at the remote, and no commit.

use std::panic::resume_unwind;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::GitSink;
use super::actor::{Change, Edit, Holding};
use super::error::GitError;
use crate::export::{Document, File};
use crate::sinks::{DocumentSink, Receipt, SinkError};

impl GitSink {
    async fn publish_all(&self, document: &Document) -> Result<Receipt, GitError> {
        let (layout, rendering) = (self.layout.clone(), document.clone());
        let rendered = tokio::task::spawn_blocking(move || layout.document(&rendering)).await;
        let rendered = rendered.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
        let scope = document.scope.clone();
        self.settle(&scope)?;
        let facts = self.facts(&scope, &document.standing, rendered.checksum.to_string(), document.exported_at)?;
        // Whoever publishes wants to know what is there, not what this process left there.
        let holdings = self.actor.owned(scope.clone()).await?;
        let change = self.change(document, rendered.files, holdings)?;
        let outcome = self.actor.submit(Edit { scope, change, facts }).await?;
        if let Some((path, other)) = outcome.conflicts.into_iter().next() {
            return Err(GitError::PathConflict { path, other });
        }
        let refused = rendered.refused.into_iter().map(Into::into).collect();
        let checksum = Some(rendered.set_checksum.to_string());
        Ok(Receipt { written: outcome.written, deleted: outcome.deleted, bytes: outcome.bytes, refused, checksum })
    }
}

impl GitSink {
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

impl DocumentSink for GitSink {
    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        async move { Ok(self.publish_all(document).await?) }.boxed()
    }
}
