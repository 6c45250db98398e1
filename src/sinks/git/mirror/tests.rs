use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::error::{Class, Classify as _};
use crate::sinks::git::testing::{Remote, Scratch};

fn place(url: &str) -> Place {
    Place { url: url.to_owned(), branch: "main".to_owned() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn synchronise(mirror: &mut Mirror, remote: &Remote) -> Result<(), GitError> {
    let wire = remote.wire();
    let never = tokio_util::sync::CancellationToken::new();
    let session = wire.session(tokio::time::Instant::now() + Duration::from_secs(5), &never)?;
    mirror.synchronise(&session, std::num::NonZeroU32::MIN)
}

#[test]
fn a_mirror_is_found_by_address_and_branch() {
    let place = place("https://git.example.com/platform/inv.git");
    assert_eq!(place.directory(), "02fe52d9b52332fea9d258606a3cc27e");
}

#[test]
fn a_root_that_others_could_write_is_refused() {
    let scratch = Scratch::new();
    let inside = |name: &str| scratch.path().join(name);
    fs::create_dir(inside("open")).unwrap();
    fs::set_permissions(inside("open"), fs::Permissions::from_mode(0o770)).unwrap();
    fs::create_dir(inside("own")).unwrap();
    fs::set_permissions(inside("own"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(inside("own"), inside("link")).unwrap();
    fs::write(inside("file"), "").unwrap();
    for name in ["open", "link", "file"] {
        let places = Places { configured: Some(inside(name)), cache: None, temporary: inside("tmp") };
        let error = places.root().unwrap_err();
        assert!(matches!(error, GitError::Root { .. }), "{name}: {error}");
        assert_eq!(error.class(), Class::Terminal);
    }
    let places = Places { configured: Some(inside("own")), cache: None, temporary: inside("tmp") };
    assert_eq!(places.root().unwrap(), inside("own"));
}

#[test]
fn a_root_of_another_user_is_refused() {
    let scratch = Scratch::new();
    let root = scratch.path().join("foreign");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    if std::os::unix::fs::chown(&root, Some(12_345), None).is_err() {
        return; // only root gives directories away
    }
    let places = Places { configured: Some(root), cache: None, temporary: scratch.path().to_owned() };
    assert!(matches!(places.root(), Err(GitError::Root { problem: "belongs to another user", .. })));
}

#[test]
fn the_root_is_made_for_us_alone_and_falls_back_to_temporary_files() {
    let scratch = Scratch::new();
    let places = Places {
        configured: None,
        cache: Some(PathBuf::from("/proc/no-such-cache")),
        temporary: scratch.path().to_owned(),
    };
    let root = places.root().unwrap();
    assert_eq!(root, scratch.path().join("kollect-git-mirrors"));
    assert_eq!(fs::metadata(root).unwrap().permissions().mode() & 0o777, 0o700);
    let places = Places { cache: Some(scratch.path().join("cache")), ..places };
    assert_eq!(places.root().unwrap(), scratch.path().join("cache/kollect/git-mirrors"));
}

#[test]
fn a_disk_that_takes_nothing_is_named_and_passes() {
    let places =
        Places { configured: Some(PathBuf::from("/proc/mirrors")), cache: None, temporary: PathBuf::from("/tmp") };
    let error = places.root().unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    let text = error.to_string();
    assert!(text.contains("/proc/mirrors") && text.contains("KOLLECT_GIT_MIRROR_DIR"), "{text}");
}

#[test]
fn one_at_a_time_works_in_a_mirror() {
    let scratch = Scratch::new();
    let (places, place) = (scratch.mirrors(), place("https://example.com/r"));
    let first = Mirror::open(&places, &place, soon()).unwrap();
    assert!(matches!(Mirror::open(&places, &place, Instant::now()), Err(GitError::Locked { .. })));
    drop(first);
    Mirror::open(&places, &place, Instant::now()).unwrap();
}

#[test]
fn a_directory_that_is_not_a_mirror_of_ours_stays() {
    let scratch = Scratch::new();
    let (places, place) = (scratch.mirrors(), place("https://example.com/r"));
    let path = places.root().unwrap().join(place.directory());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("precious"), "x").unwrap();
    assert!(matches!(Mirror::open(&places, &place, soon()), Err(GitError::Root { .. })));
    assert!(path.join("precious").exists());
    assert_eq!(evict(&places, &[], Duration::ZERO).unwrap(), 0);
}

#[test]
fn what_a_kill_left_behind_is_made_anew() {
    let scratch = Scratch::new();
    let (places, place) = (scratch.mirrors(), place("https://example.com/r"));
    let path = places.root().unwrap().join(place.directory());
    // Between the directory and its marker.
    fs::create_dir(&path).unwrap();
    drop(Mirror::open(&places, &place, soon()).unwrap());
    // Between the marker and the repository.
    fs::remove_file(path.join("HEAD")).unwrap();
    drop(Mirror::open(&places, &place, soon()).unwrap());
    // The directory belongs to another remote.
    fs::write(path.join(MARKER), "https://example.com/other\nmain\n").unwrap();
    drop(Mirror::open(&places, &place, soon()).unwrap());
    assert_eq!(fs::read_to_string(path.join(MARKER)).unwrap(), "https://example.com/r\nmain\n");
}

#[test]
fn only_idle_mirrors_of_nobody_go() {
    let scratch = Scratch::new();
    let places = scratch.mirrors();
    let [kept, idle, locked] = ["kept", "idle", "locked"].map(|name| place(&format!("https://example.com/{name}")));
    for place in [&kept, &idle] {
        drop(Mirror::open(&places, place, soon()).unwrap());
    }
    let held = Mirror::open(&places, &locked, soon()).unwrap();
    let root = places.root().unwrap();
    fs::create_dir(root.join("somebody")).unwrap();
    assert_eq!(evict(&places, std::slice::from_ref(&kept), Duration::from_hours(1)).unwrap(), 0);
    assert_eq!(evict(&places, std::slice::from_ref(&kept), Duration::ZERO).unwrap(), 1);
    for (name, there) in
        [(kept.directory(), true), (idle.directory(), false), (locked.directory(), true), ("somebody".to_owned(), true)]
    {
        assert_eq!(root.join(&name).exists(), there, "{name}");
    }
    drop(held);
}

#[test]
fn an_empty_remote_and_a_missing_branch_are_normal() {
    let (scratch, remote) = (Scratch::new(), Remote::new());
    let mut mirror = Mirror::open(&scratch.mirrors(), &place("x"), soon()).unwrap();
    synchronise(&mut mirror, &remote).unwrap();
    assert_eq!(mirror.tip("refs/heads/main").unwrap(), None);
    remote.commit("other", &[("a", Some("1"))]);
    synchronise(&mut mirror, &remote).unwrap();
    assert_eq!(mirror.tip("refs/heads/main").unwrap(), None);
    assert_eq!(mirror.references("refs/").unwrap(), []);
}

#[test]
fn the_mirror_follows_the_remote_wherever_it_goes() {
    let (scratch, remote) = (Scratch::new(), Remote::new());
    let mut mirror = Mirror::open(&scratch.mirrors(), &place("x"), soon()).unwrap();
    let first = remote.commit("main", &[("a", Some("1"))]);
    remote.git(&["update-ref", "refs/kollect/w/n/a", &first.to_string()]);
    for _ in 0..5 {
        remote.commit("main", &[("a", None), ("b", Some("2"))]);
        remote.commit("main", &[("a", Some("1")), ("b", None)]);
    }
    let tip = remote.commit("main", &[("c", Some("3"))]);
    synchronise(&mut mirror, &remote).unwrap();
    assert_eq!(mirror.tip("refs/heads/main").unwrap(), Some(tip));
    assert_eq!(mirror.tip("refs/kollect/w/n/a").unwrap(), Some(first));
    assert!(mirror.repository().is_shallow(), "history is not fetched");
    remote.git(&["update-ref", "refs/heads/main", &first.to_string()]);
    remote.git(&["update-ref", "-d", "refs/kollect/w/n/a"]);
    synchronise(&mut mirror, &remote).unwrap();
    assert_eq!(mirror.tip("refs/heads/main").unwrap(), Some(first));
    assert_eq!(mirror.tip("refs/kollect/w/n/a").unwrap(), None);
    remote.git(&["update-ref", "-d", "refs/heads/main"]);
    synchronise(&mut mirror, &remote).unwrap();
    assert_eq!(mirror.tip("refs/heads/main").unwrap(), None);
}

#[test]
fn refs_of_strangers_among_ours_are_passed_over() {
    let (scratch, remote) = (Scratch::new(), Remote::new());
    let mut mirror = Mirror::open(&scratch.mirrors(), &place("x"), soon()).unwrap();
    remote.commit("main", &[("a", Some("1"))]);
    let blob = remote.git(&["rev-parse", "main:a"]);
    remote.git(&["update-ref", "refs/kollect/w/n/blob", &blob]);
    remote.git(&["update-ref", "refs/kollect/short", "main"]);
    for _ in 0..2 {
        synchronise(&mut mirror, &remote).unwrap();
        assert_eq!(mirror.references("refs/kollect/").unwrap(), []);
    }
}

#[test]
fn packing_leaves_one_pack_with_the_tips_and_the_mirror_goes_on() {
    let (scratch, remote) = (Scratch::new(), Remote::new());
    let mut mirror = Mirror::open(&scratch.mirrors(), &place("x"), soon()).unwrap();
    for round in 0..8 {
        remote.commit("main", &[("a", Some(&format!("{round}"))), (&format!("d/{round}"), Some("x"))]);
        synchronise(&mut mirror, &remote).unwrap();
    }
    let packs = mirror.path.join("objects/pack");
    mirror.repository().blob(b"loose and of nobody").unwrap();
    mirror.repack().unwrap();
    let count = |ending: &str| {
        let entries = fs::read_dir(&packs).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().ends_with(ending)).count()
    };
    assert_eq!((count(".pack"), count(".idx")), (1, 1));
    let loose = fs::read_dir(mirror.path.join("objects")).unwrap();
    assert_eq!(loose.filter(|entry| entry.as_ref().unwrap().file_name().len() == 2).count(), 0);
    let tip = remote.commit("main", &[("a", Some("last"))]);
    synchronise(&mut mirror, &remote).unwrap();
    let tree = mirror.repository().find_commit(tip).unwrap().tree_id();
    assert_eq!(crate::sinks::git::tree::list(mirror.repository(), tree).unwrap().len(), 9);
    mirror.repack().unwrap();
    mirror.repack().unwrap();
    synchronise(&mut mirror, &remote).unwrap();
}
