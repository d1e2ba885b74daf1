//! Go's own answers: RKE is written in it, and its readers are.

use kubepki::rke::{ClusterConfig, Json, json, kube_apiserver_sans, service_addresses};
use pki::San;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::json::any_json;

/// One answer to each question.
fn ask(what: &str, questions: &[String]) -> Vec<String> {
    let program = testkit::go_program(include_str!("oracle.go"));
    let mut input = questions.join("\n");
    input.push('\n');
    let run = testkit::run(program, &[what], input.as_bytes());
    assert!(run.success(), "{}", run.text());
    let answers: Vec<String> = String::from_utf8(run.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

fn samples<T>(count: usize, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    let sample = |_| strategy.new_tree(&mut runner).unwrap().current();
    (0..count).map(sample).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn json_is_written_as_go_writes_it() {
    let values = samples(400, any_json());
    let questions: Vec<String> = values
        .iter()
        .map(|value| String::from_utf8(value.compact().to_vec()).unwrap())
        .collect();
    for (value, answer) in values.iter().zip(ask("json", &questions)) {
        assert_eq!(base64(&value.pretty()), answer, "{questions:?}");
    }
}

#[test]
fn json_is_read_as_go_reads_it() {
    // Texts that are whole, and the same with a character changed.
    let strange = prop_oneof![
        Just(String::new()),
        "[\\[\\]{},:\"\\\\u0-9a-f.eE+ntrul/ -]{0,12}",
        "\"(\\\\u(d8|dc|00)[0-9a-f]{2}|x){0,4}\"",
        "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?",
    ];
    let edits = (any_json(), 0_usize..60, "[\\[\\]{},:\"\\\\0-9a-f.eE+ -]");
    let mut questions = samples(1000, strange);
    questions.extend(samples(600, edits).into_iter().map(|(value, at, new)| {
        let text = String::from_utf8(value.compact().to_vec()).unwrap();
        let changed = |(place, old)| {
            if place == at {
                new.clone()
            } else {
                String::from(old)
            }
        };
        text.chars().enumerate().map(changed).collect()
    }));
    let mut read = 0;
    for (question, answer) in questions.iter().zip(ask("json", &questions)) {
        let ours = match json::parse(question.as_bytes()) {
            Ok(value) => base64(&sorted(value).pretty()),
            Err(_) => "-".to_owned(),
        };
        assert_eq!(ours, answer, "{question:?}");
        read += usize::from(answer != "-");
    }
    assert!(read > 200 && read < 1400, "{read}");
}

/// Go sorts the keys of what it does not know.
fn sorted(value: Json) -> Json {
    match value {
        Json::Object(mut pairs) => {
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            let pairs = pairs.into_iter().map(|(key, value)| (key, sorted(value)));
            Json::Object(pairs.collect())
        }
        Json::List(items) => Json::List(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[test]
fn service_addresses_are_those_that_go_computes() {
    let four = "(0|1|10|127|172|192|255|256|007)(\\.(0|1|16|43|255)){2,4}/[0-9]{1,2}";
    let six = "(fd00|fe80|::ffff|2001:db8)(:[0-9a-f]{1,4}){0,2}::?(ff|ffff:ffff|1)?/[0-9]{1,3}";
    let odd = prop_oneof!["[0-9./ +-]{0,10}", "10\\.0\\.0\\.0/(08|-1|\\+8| 8|8 |)"];
    let mut questions = samples(400, four);
    questions.extend(samples(400, six));
    questions.extend(samples(200, odd));
    let mut good = 0;
    for (range, answer) in questions.iter().zip(ask("range", &questions)) {
        let ours = match service_addresses(range) {
            Ok(found) => found[0].to_string(),
            Err(_) => "-".to_owned(),
        };
        assert_eq!(ours, answer, "{range:?}");
        good += usize::from(answer != "-");
    }
    assert!(good > 200, "{good}");
}

#[test]
fn names_are_addresses_where_go_says_so() {
    let strange = prop_oneof![
        "(0|1|10|255|256|01)(\\.(0|1|255|00)){2,4}",
        "[0-9a-f:.]{1,12}",
        "(fd00|fe80|::ffff)::?(1|10\\.0\\.0\\.1|a\\.b)(%eth0|/64)?",
        "[a-z]{1,5}(\\.[a-z]{1,3})?",
    ];
    let questions = samples(1000, strange);
    let nodes = "nodes:\n- {address: a, user: u, role: [etcd]}\n";
    let mut config = ClusterConfig::parse(nodes).unwrap();
    for (name, answer) in questions.iter().zip(ask("address", &questions)) {
        config.sans = vec![name.clone()];
        let ours = kube_apiserver_sans(&config).unwrap();
        let expected = match answer.as_str() {
            "-" => San::Dns(name.clone()),
            address => San::Ip(address.parse().unwrap()),
        };
        assert!(ours.contains(&expected), "{name}: {answer} {ours:?}");
    }
}
