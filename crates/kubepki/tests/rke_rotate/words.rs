//! A plan in words, for goldens: every host, file, restart, guard and proof.

use std::fmt::Write as _;

use kubepki::plan::{
    Action, Before, Content, Credential, Plan, Proof, StateConfig, StateEdit, Step, Target,
};

pub fn words(plan: &Plan) -> String {
    let mut text = format!("{}\n", plan.title);
    if let Some(why) = &plan.irreversible {
        let _ = writeln!(text, "irreversible: {why}");
    }
    for (id, leaf) in &plan.leaves {
        let certificate = leaf.certificate.as_ref().unwrap();
        let issuer = pki::Certificate::all_from_pem(certificate.issuer.certificate.as_bytes());
        let _ = writeln!(
            text,
            "leaf {id}: CN={} O={:?} {:?} {} names, {} behind it, from {} by {:?}",
            certificate.common_name,
            certificate.organizations,
            certificate.purposes,
            certificate.sans.len(),
            certificate.chain.matches("BEGIN").count(),
            issuer.unwrap()[0].subject(),
            certificate.issuer.key
        );
    }
    for step in &plan.steps {
        one(&mut text, plan, step);
    }
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

fn one(text: &mut String, plan: &Plan, step: &Step) {
    let wait = match plan.deferrable.contains(&step.number) {
        true if plan.holds_back(step) => ", may wait with all that follows",
        true => ", may wait",
        false => "",
    };
    let _ = writeln!(text, "\n{}. {}{wait}", step.number, step.reason);
    match (&step.action, &step.target) {
        (
            Action::Put {
                content,
                attributes,
            },
            Target::File { path, .. },
        ) => {
            let _ = writeln!(
                text,
                "   put {} {:04o} {}, before {}",
                path.display(),
                attributes.mode,
                what(content),
                before(&step.before)
            );
            if let Content::RkeState(edit) = content {
                state(text, edit);
            }
        }
        (Action::Deploy { sets }, _) => {
            for set in sets {
                let _ = writeln!(text, "   {} {}", set.host, set.directory.display());
                for (name, file) in &set.files {
                    let content = file.content.as_ref().map_or("removed".to_owned(), what);
                    let _ = writeln!(
                        text,
                        "     {name} {:04o} {:?}:{:?} {content}, before {}",
                        file.attributes.mode,
                        file.attributes.uid.unwrap(),
                        file.attributes.gid.unwrap(),
                        before(&file.before)
                    );
                }
            }
        }
        (Action::RestartContainers { restarts }, _) => {
            for restart in restarts {
                let _ = writeln!(text, "   {} {}", restart.host, restart.container);
                for guard in &restart.guard {
                    let _ = writeln!(text, "     if {}", proof(guard));
                }
                for it in &restart.proof {
                    let _ = writeln!(text, "     then {}", proof(it));
                }
            }
        }
        (Action::DeletePods { selectors }, _) => {
            let _ = writeln!(text, "   delete pods {}", selectors.join(" "));
        }
        (Action::SaveState { path }, _) => {
            let _ = writeln!(text, "   save {}", path.display());
        }
        other => panic!("{other:?}"),
    }
}

fn state(text: &mut String, edit: &StateEdit) {
    match edit {
        StateEdit::Desire {
            entries,
            removed,
            config,
        } => {
            for (name, entry) in entries {
                let certificate = entry
                    .certificate
                    .as_ref()
                    .map_or("as it is".to_owned(), what);
                let key = entry.key.as_ref().map_or("as it is".to_owned(), what);
                let config = match &entry.config {
                    None => "as it is".to_owned(),
                    Some(StateConfig::Text(text)) => format!("{} lines", text.lines().count()),
                    Some(StateConfig::Admin {
                        server,
                        authority,
                        path,
                        ..
                    }) => format!("{server}, {} roots, {path}", pems(authority)),
                };
                let _ = writeln!(
                    text,
                    "     want {name}: {certificate}; key {key}; config {config}"
                );
            }
            for name in removed {
                let _ = writeln!(text, "     drop {name}");
            }
            if config.is_some() {
                let _ = writeln!(text, "     want another rkeConfig");
            }
        }
        StateEdit::Promote { entries, config } => {
            let config = if *config { " and rkeConfig" } else { "" };
            let _ = writeln!(text, "     in force: {}{config}", entries.join(" "));
        }
    }
}

fn pems(text: &str) -> usize {
    text.matches("BEGIN CERTIFICATE").count()
}

fn what(content: &Content) -> String {
    match content {
        Content::Text(text) if text.contains("BEGIN CERTIFICATE") => {
            format!("{} certificates", pems(text))
        }
        Content::Text(text) if text.is_empty() => "nothing".to_owned(),
        Content::CopyOf { path, .. } => format!("copy of {}", path.display()),
        Content::Text(text) => format!("text of {} lines", text.lines().count()),
        Content::Staged { name, .. } => format!("staged {name}"),
        Content::LeafKey(leaf) => format!("key of {leaf}"),
        Content::LeafCertificate(leaf) => format!("{leaf} and what follows"),
        Content::BareCertificate(leaf) => format!("{leaf} alone"),
        Content::RkeState(_) => "edited".to_owned(),
        Content::AdminKubeconfig {
            server,
            cluster,
            authority,
            leaf,
        } => format!(
            "kubeconfig {server} {cluster} {leaf}, {} roots",
            pems(authority)
        ),
        other => panic!("{other:?}"),
    }
}

fn before(before: &Before) -> String {
    match before {
        Before::Present(_) => "known".to_owned(),
        Before::Absent => "absent".to_owned(),
        Before::Any => "any".to_owned(),
        Before::LeftBy(step) => format!("step {step}"),
        other => panic!("{other:?}"),
    }
}

fn client(client: &Credential) -> String {
    match client {
        Credential::Leaf(leaf) => format!("new {leaf}"),
        Credential::RkeState { entry, .. } => format!("present {entry}"),
        Credential::RkeDesired { entry, .. } => format!("desired {entry}"),
    }
}

fn proof(proof: &Proof) -> String {
    match proof {
        Proof::ServesAt {
            host,
            address,
            leaf,
        } => format!("{host} sees {leaf} at {address}"),
        Proof::ServesOtherAt { host, address, .. } => {
            format!("{host} sees another certificate at {address}")
        }
        Proof::ServesExactly {
            host,
            address,
            sha256,
            kept,
        } => format!(
            "{host} sees {}{} at {address}",
            sha256.get(..12).unwrap(),
            if *kept { " as before" } else { "" }
        ),
        Proof::Healthy {
            host,
            url,
            client: with,
            member,
        } => format!(
            "{host} finds {url} healthy{}{}",
            with.as_ref()
                .map_or(String::new(), |it| format!(" with {}", client(it))),
            member
                .as_ref()
                .map_or(String::new(), |(name, value)| format!(", {name}={value}"))
        ),
        Proof::Accepts {
            host,
            url,
            client: with,
        } => format!("{host} gets in at {url} with {}", client(with)),
        Proof::Quorum {
            members,
            needed,
            client: with,
        } => {
            let urls: Vec<&str> = members.iter().map(|(_, url)| url.as_str()).collect();
            format!(
                "{needed} of [{}] healthy, asked with {}",
                urls.join(" "),
                client(with)
            )
        }
        other => panic!("{other:?}"),
    }
}
