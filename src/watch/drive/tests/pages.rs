//! Servers that answer in pages, and lists that are refused.

use super::*;

fn page(version: u32, items: &[String], next: &str) -> String {
    let items = items.join(",");
    format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#)
}

#[tokio::test(start_paused = true)]
async fn pages_are_one_list_and_the_watch_takes_over_behind_the_last() {
    let lists = vec![
        Ok(page(7, &[item("u1", "n", 3, "a")], "t1")),
        Ok(page(7, &[item("u2", "n", 4, "a")], "t2")),
        Ok(page(7, &[item("u3", "n", 5, "a")], "")),
    ];
    let mut stage = Stage::new(lists, vec![]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.until(&[A1, A2, A3]).await;
    stage.asked(4).await;
    assert!(stage.whole());
    assert_eq!(*stage.script.asked.lock(), ["list n", "list n behind t1", "list n behind t2", "watch 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_sweeps_nothing_and_the_list_begins_again() {
    let lists = vec![
        Ok(list(7, &[item("u1", "n", 3, "a"), item("u2", "n", 4, "a")])),
        Ok(page(90, &[item("u1", "n", 3, "a")], "t1")),
        Err(500),
        Ok(page(95, &[item("u1", "n", 3, "a")], "t2")),
        Ok(page(95, &[item("u3", "n", 80, "a")], "")),
    ];
    let mut stage = Stage::new(lists, vec![Watch::Refused(410)]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.asked(4).await;
    assert_eq!(stage.rows(), [A1, A2]);
    stage.until(&[A1, A3]).await;
    stage.asked(7).await;
    let asked = stage.script.asked.lock().clone();
    assert_eq!(
        asked,
        ["list n", "watch 7", "list n", "list n behind t1", "list n", "list n behind t2", "watch 95"],
        "from the first page"
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_expires_between_two_pages_is_read_at_once_and_keeps_nothing_of_the_first_pages() {
    let lists = vec![
        // u2 is deleted after the first page, and the token expires.
        Ok(page(7, &[item("u1", "n", 3, "a"), item("u2", "n", 4, "a")], "t1")),
        Err(410),
        Ok(list(90, &[item("u1", "n", 80, "b"), item("u3", "n", 81, "a")])),
    ];
    let mut stage = Stage::new(lists, vec![]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.until(&[B1, A3]).await;
    stage.asked(4).await;
    assert!(stage.whole());
    assert_eq!(*stage.script.asked.lock(), ["list n", "list n behind t1", "list n at once", "watch 90"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_cluster_wide_list_leaves_nothing_known_and_keeps_the_rows() {
    let lists = vec![Ok(list(7, &[item("u1", "n", 3, "a"), item("u2", "m", 4, "a")])), Err(403)];
    let mut stage = Stage::new(lists, vec![Watch::Refused(410)]);
    stage.cover(&["n", "m"]);
    stage.drive(None);
    stage.until(&[A1, A2]).await;
    stage.asked(3).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(stage.rows(), [A1, A2]);
    let counts = stage.shared.store.table(&Namespace::new("team")).target_counts(&Name::new("things"));
    assert_eq!(counts.unknown, [Namespace::new("m"), Namespace::new("n")]);
}

impl Stage {
    /// Waits until the server was asked so many times.
    async fn asked(&self, times: usize) {
        for _ in 0..100_000 {
            if self.script.asked.lock().len() >= times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("asked for {:?}", self.script.asked.lock());
    }
}
