//! Two operators of two clusters, and a person, in one branch: all of them write all the time.

use anyhow::ensure;
use kollect::lab::git::{BRANCH, Human, Repository};
use kollect::lab::load::Load;
use tokio::time::{Duration, Instant};

use super::{Bench, run_git};
use crate::faults::long;
use crate::operator::Job;

/// Between two commits of the person.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_and_a_person_in_one_branch_lose_nothing_of_each_other() {
    let Some(west) = Bench::new("git-west").await else { return };
    let Some(east) = west.beside("git-east", "east").await else { return };
    let load = Load { rate: Some(8.0), ..Job::load(2, 10) };
    for bench in [&west, &east] {
        load.create(&bench.job.ground.client).await.unwrap();
    }
    let people = west.both().map(|repository| repository.human("ann", BRANCH).unwrap());
    let (in_the_west, in_the_east) = tokio::join!(west.operator(), east.operator());

    let end = Instant::now() + long(Duration::from_secs(5), Duration::from_mins(5));
    let person = tokio::task::spawn_blocking(move || writes(&people, end));
    let ((), (), pages) = tokio::join!(churns(&west, &load, end), churns(&east, &load, end), person);
    let pages = pages.unwrap();

    west.becomes("the repositories equal both clusters", || {
        let mut want = [west.job.objects()?, east.job.objects()?].concat();
        want.sort();
        for repository in west.both() {
            ensure!(want == Bench::all_items(repository)?, "{} differs", repository.name());
        }
        Ok(())
    })
    .await;
    for (bench, operator) in [(&west, &in_the_west), (&east, &in_the_east)] {
        bench.job.equals_the_cluster().await;
        bench.synced(operator).await;
    }
    west.is_sound();
    for repository in west.both() {
        west.has_owners(repository, &[&format!("east/{}/all", east.job.namespace()), "test/NS/all"]).await;
        let dirs = [&west, &east].map(|bench| bench.home(repository));
        history_is_sound(repository, &dirs, pages);
    }
    in_the_west.terminate().await.unwrap();
    in_the_east.terminate().await.unwrap();
}

impl Bench {
    /// Returns where the files of this cluster are.
    fn home(&self, repository: &Repository) -> String {
        if repository.name() == self.tree.name() {
            format!("{}/", self.cluster)
        } else {
            format!("inventory/{}/", self.job.namespace())
        }
    }
}

/// Changes images, and takes some objects away and brings them back.
async fn churns(bench: &Bench, load: &Load, end: Instant) {
    let client = &bench.job.ground.client;
    for round in 1.. {
        let objects = load.draw(12, load.total());
        load.patch(client, objects.clone(), round).await.unwrap();
        load.delete(client, vec![objects[0]]).await.unwrap();
        load.create(client).await.unwrap();
        if Instant::now() >= end {
            return;
        }
    }
}

/// Writes a page after the other into each repository, and returns how many.
fn writes(people: &[Human], end: Instant) -> usize {
    let mut pages = 0;
    while Instant::now() < end {
        for person in people {
            person.edit(&format!("docs/{pages}.md"), format!("page {pages}\n"), &format!("write {pages}")).unwrap();
        }
        pages += 1;
        std::thread::sleep(PAUSE);
    }
    pages
}

/// Checks that each commit of an operator changes files of its own cluster and no others, that those of the person are
/// all there in their order, each with its page and nothing else, and that the pages are as they were written.
fn history_is_sound(repository: &Repository, homes: &[String], pages: usize) {
    let log = run_git(repository, &["log", "--reverse", "--format=%x01%an%x02%s%x02", "--name-only", BRANCH]);
    let mut written = 0;
    for commit in log.split('\x01').skip(1) {
        let fields: Vec<&str> = commit.split('\x02').collect();
        let (author, subject) = (fields[0], fields[1]);
        let files: Vec<&str> = fields[2].lines().filter(|line| !line.is_empty()).collect();
        assert!(!files.is_empty(), "{author} changed nothing: {subject}");
        if author == "ann" {
            assert_eq!((subject, &files[..]), (&*format!("write {written}"), &[&*format!("docs/{written}.md")][..]));
            written += 1;
        } else {
            let of = |home: &&String| files.iter().all(|file| file.starts_with(home.as_str()));
            assert_eq!(homes.iter().filter(of).count(), 1, "{author} changed {files:?}");
        }
    }
    assert_eq!(written, pages, "commits of the person");
    let files = Bench::files(repository).unwrap();
    let pages_there = files.iter().filter(|(path, _)| path.starts_with("docs/"));
    assert!(
        pages_there
            .clone()
            .all(|(path, text)| format!("docs/{}.md", text.trim_start_matches("page ").trim()) == **path)
    );
    assert_eq!(pages_there.count(), pages);
}
