//! A state directory that somebody has been at.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::common::Node;
use super::{SERVER, assert_civil};

/// A node on which one rotation was done, and its plan's id.
fn rotated() -> (Node, String) {
    let node = Node::new(SERVER);
    node.ok(&["rotate", "--yes", "--service", "admin"]);
    let plans = fs::read_dir(node.path("data/kubepki/plans")).unwrap();
    let name = plans.last().unwrap().unwrap().file_name();
    let id = name.to_str().unwrap().trim_end_matches(".json").to_owned();
    (node, id)
}

fn journal(id: &str) -> String {
    format!("data/kubepki/journal/{id}.jsonl")
}

fn plan(id: &str) -> String {
    format!("data/kubepki/plans/{id}.json")
}

fn edit(node: &Node, below: &str, change: impl Fn(String) -> String) {
    let text = fs::read_to_string(node.path(below)).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed);
    fs::write(node.path(below), changed).unwrap();
}

#[test]
fn a_last_line_cut_short_is_a_crash_like_any_other() {
    let (node, id) = rotated();
    let done = node.tree();
    edit(&node, &journal(&id), |text| {
        text[..text.len() - 30].to_owned()
    });
    let text = node.ok(&["history"]).text();
    assert!(text.contains("interrupted after its last step"), "{text}");
    node.ends(&["rotate", "--yes"], 6);
    node.ok(&["resume"]);
    node.assert_is(&done);
    node.ok(&["undo", "--yes"]);
}

/// Where the past cannot be read nothing new begins, and forgetting it clears the way.
#[test]
fn a_past_that_cannot_be_read_stands_in_the_way_until_it_is_forgotten() {
    type Spoil = fn(&Node, &str);
    let cases: [(&str, Spoil, &str); 4] = [
        (
            "a flipped bit",
            |node, id| {
                edit(node, &journal(id), |text| {
                    text.replacen("intend", "intenD", 1)
                })
            },
            "checksum",
        ),
        (
            "a newer journal",
            |node, id| {
                edit(node, &journal(id), |text| {
                    text.replacen("\"format\":1", "\"format\":9", 1)
                });
            },
            "newer kubepki",
        ),
        (
            "a newer plan",
            |node, id| {
                edit(node, &plan(id), |text| {
                    text.replacen("\"format\": 1", "\"format\": 9", 1)
                });
            },
            "format 9",
        ),
        (
            "no plan at all",
            |node, id| fs::write(node.path(&plan(id)), "x").unwrap(),
            "not a plan",
        ),
    ];
    for (name, spoil, says) in cases {
        let (node, id) = rotated();
        spoil(&node, &id);
        let before = node.tree();
        let text = node.ok(&["history"]).text();
        assert!(
            text.contains("cannot be read") && text.contains(says),
            "{name}: {text}"
        );
        for args in [
            &["rotate", "--yes"][..],
            &["renew", "--yes"],
            &["undo", "--yes"],
            &["kubeconfig", "renew", "--yes"],
        ] {
            let run = node.ends(args, 5);
            let text = run.text();
            assert_civil(name, &run);
            assert!(text.contains(&id) && text.contains(says), "{name}: {text}");
            assert!(text.contains("kubepki history --forget"), "{name}: {text}");
        }
        for args in [["undo", &id, "--yes"], ["apply", &id, "--yes"]] {
            let run = node.run(&args);
            assert_civil(name, &run);
            assert!(matches!(run.code, Some(1 | 5)), "{name}: {}", run.text());
        }
        node.assert_untouched(&before);
        node.ok(&["history", "--forget", &id, "--yes"]);
        node.ok(&["rotate", "--yes", "--service", "scheduler"]);
    }
}

#[test]
fn a_plan_edited_after_it_began_is_not_taken_back_by_guesswork() {
    let (node, id) = rotated();
    edit(&node, &plan(&id), |text| {
        text.replacen("\"mode\": 384", "\"mode\": 511", 1)
    });
    let before = node.tree();
    let run = node.ends(&["undo", "--yes"], 5);
    assert!(
        run.text().contains("was changed after it was begun"),
        "{}",
        run.text()
    );
    node.assert_is(&before);
}

#[test]
fn backups_that_are_gone_or_changed_are_not_put_back() {
    for gone in [true, false] {
        let (node, id) = rotated();
        let backup = node.path(&format!("data/kubepki/backups/{id}/1"));
        match gone {
            true => fs::remove_file(&backup).unwrap(),
            false => fs::write(&backup, "x").unwrap(),
        }
        let before = node.tree();
        let run = node.ends(&["undo", "--yes"], 1);
        assert!(run.text().contains("backup of step 1"), "{}", run.text());
        node.assert_is(&before);
    }
}

#[test]
fn a_state_directory_of_others_is_not_written_to() {
    type Spoil = fn(&Node);
    let cases: [(Spoil, &str); 3] = [
        (
            |node| {
                let open = fs::Permissions::from_mode(0o777);
                fs::set_permissions(node.path("data/kubepki"), open).unwrap();
            },
            "can be written to by other users",
        ),
        (
            |node| {
                fs::rename(node.path("data/kubepki"), node.path("state")).unwrap();
                std::os::unix::fs::symlink("../state", node.path("data/kubepki")).unwrap();
            },
            "is not a directory",
        ),
        (
            |node| {
                fs::remove_dir_all(node.path("data/kubepki")).unwrap();
                fs::write(node.path("data/kubepki"), "").unwrap();
            },
            "Not a directory",
        ),
    ];
    for (spoil, says) in cases {
        let (node, _) = rotated();
        spoil(&node);
        let before = node.tree();
        for args in [&["rotate", "--yes"][..], &["undo", "--yes"]] {
            let run = node.ends(args, 1);
            assert!(run.text().contains(says), "{says}: {}", run.text());
            assert_civil(says, &run);
        }
        node.ok(&["check"]);
        node.assert_untouched(&before);
    }
}
