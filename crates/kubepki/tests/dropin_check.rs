//! `k3s certificate check` against what K3s v1.36.3 printed on the same trees.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::Path;

use kubepki::catalogue::{K3S, Service};
use kubepki::dropin::{
    CheckReport, Format, Layout, Level, Line, LineStyle, Moment, Selection, Status, check, render,
    select,
};
use kubepki::host::LocalHost;
use pki::UnixTime;
use testkit::Fixture;

const RECORDED: &[&str] = &[
    "k3s-1.36-agent-only",
    "k3s-1.36-custom-ca",
    "k3s-1.36-custom-ca-rotated",
    "k3s-1.36-default-rotated",
    "k3s-1.36-encryption-token-rotated",
    "k3s-1.36-etcd-embedded",
    "k3s-1.36-sqlite",
];

const UTC: LineStyle = LineStyle::Fields { offset: 0 };

fn layout(root: &Path) -> Layout {
    Layout::new(Path::new("/var/lib/rancher/k3s"), root.to_owned())
}

async fn selected(root: &Path) -> Selection {
    select(&LocalHost, &K3S, &layout(root), &[], "checking")
        .await
        .unwrap()
}

async fn report(root: &Path, services: &[&Service], now: Moment) -> CheckReport {
    check(&LocalHost, &K3S, &layout(root), services, now, 120).await
}

/// K3s goes through its services at random: `services` in the order in which `recording` has
/// their files.
fn in_recorded_order(services: &[&'static Service], recording: &str) -> Vec<&'static Service> {
    let first_mention = |service: &&'static Service| {
        K3S.files_of(service, None)
            .iter()
            .filter_map(|(_, path)| {
                let name = path.file_name().unwrap().to_str().unwrap();
                let starts = |found: &(usize, &str)| {
                    // `client.crt` is also the end of `server-client.crt`.
                    !recording[..found.0].ends_with(|c: char| c == '-' || c.is_alphanumeric())
                };
                recording
                    .match_indices(name)
                    .find(starts)
                    .map(|(index, _)| index)
            })
            .min()
    };
    let mut services = services.to_vec();
    services.sort_by_key(first_mention);
    services
}

/// RFC 3339 in UTC.
fn time(text: &str) -> UnixTime {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let fields = [
        number(5..7),
        number(8..10),
        number(11..13),
        number(14..16),
        number(17..19),
    ];
    UnixTime::from_civil(number(0..4), fields).unwrap()
}

/// The time in the recorded log's first line.
fn logged_at(stderr: &str) -> UnixTime {
    time(stderr.strip_prefix("time=\"").unwrap())
}

/// `residual` nanoseconds before `end`.
fn before(end: UnixTime, residual: i64) -> Moment {
    let nanoseconds = i128::from(end.as_secs()) * 1_000_000_000 - i128::from(residual);
    let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap();
    let rest = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap();
    Moment::new(UnixTime::from_secs(seconds), rest)
}

/// The moment of a json or yaml recording, from its first certificate.
fn moment(format: &str, stdout: &str) -> Moment {
    match format {
        "json" => {
            let value: serde_json::Value = serde_json::from_str(stdout).unwrap();
            let first = &value["Certificates"][0];
            let end = time(first["ExpiryTime"].as_str().unwrap());
            before(end, first["ResidualTime"].as_i64().unwrap())
        }
        "yaml" => {
            let field = |name| {
                let line = stdout
                    .lines()
                    .find_map(|line| line.trim().strip_prefix(name));
                line.unwrap()
            };
            let (hours, rest) = field("residualtime: ").split_once('h').unwrap();
            let (minutes, seconds) = rest.trim_end_matches('s').split_once('m').unwrap();
            let (seconds, part) = seconds.split_once('.').unwrap();
            let [hours, minutes, seconds] =
                [hours, minutes, seconds].map(|text| text.parse::<i64>().unwrap());
            let part: i64 = format!("{part:0<9}").parse().unwrap();
            let seconds = hours * 3_600 + minutes * 60 + seconds;
            before(time(field("expirytime: ")), seconds * 1_000_000_000 + part)
        }
        other => panic!("{other} does not carry its moment"),
    }
}

fn log(lines: &[Line], at: UnixTime) -> String {
    lines.iter().map(|line| line.render(at, UTC)).collect()
}

#[tokio::test]
async fn every_recording_is_met_byte_for_byte() {
    for name in RECORDED {
        let fixture = Fixture::without_datastore(name);
        let root = fixture.data_dir();
        for (format, kind) in [
            ("text", Format::Text),
            ("table", Format::Table),
            ("json", Format::Json),
            ("yaml", Format::Yaml),
        ] {
            let recorded = |stream| fixture.extra_text(&format!("check/{format}.{stream}"));
            let (stdout, stderr) = (recorded("stdout"), recorded("stderr"));
            let logged = logged_at(&stderr);
            let now = match format {
                "text" | "table" => Moment::new(logged, 0),
                _ => moment(format, &stdout),
            };
            let selection = selected(&root).await;
            let both = format!("{stdout}{stderr}");
            let services = in_recorded_order(&selection.services, &both);
            let rendered = render(&report(&root, &services, now).await, kind);
            assert_eq!(rendered.stdout, stdout, "{name} {format}");
            let lines = [selection.lines, rendered.lines].concat();
            assert_eq!(log(&lines, logged), stderr, "{name} {format}");
        }
    }
}

#[tokio::test]
async fn services_come_in_the_order_of_the_catalogue() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let names = [
        "kubelet,etcd".to_owned(),
        "admin".to_owned(),
        "etcd".to_owned(),
    ];
    let selection = select(&LocalHost, &K3S, &layout(&root), &names, "checking")
        .await
        .unwrap();
    assert_eq!(selection.lines, []);
    let now = Moment::new(UnixTime::from_secs(1_795_332_595), 0);
    let report = report(&root, &selection.services, now).await;
    let files: Vec<_> = report
        .certificates
        .iter()
        .map(|line| line.filename.as_str())
        .collect();
    assert_eq!(
        files,
        [
            "client-admin.crt",
            "client-admin.crt",
            "client.crt",
            "client.crt",
            "server-client.crt",
            "server-client.crt",
            "peer-server-client.crt",
            "peer-server-client.crt",
            "client-kubelet.crt",
            "client-kubelet.crt",
            "serving-kubelet.crt",
            "serving-kubelet.crt",
        ]
    );
}

#[tokio::test]
async fn unknown_services_are_named_with_those_that_exist() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let layout = layout(&fixture.data_dir());
    let names = [
        "admin,nonsense".to_owned(),
        "certificate-authority".to_owned(),
    ];
    let error = select(&LocalHost, &K3S, &layout, &names, "checking")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "service nonsense is not recognized, service certificate-authority is not recognized; \
         known services: api-server, admin, auth-proxy, cloud-controller, controller-manager, \
         etcd, scheduler, supervisor, k3s-server, kube-proxy, kubelet, k3s-controller"
    );
    let error = select(&LocalHost, &K3S, &layout, &[String::new()], "checking")
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("service  is not recognized"));
}

#[tokio::test]
async fn nothing_to_show_is_shown_as_go_does() {
    let empty = tempfile::tempdir().unwrap();
    let selection = selected(empty.path()).await;
    assert_eq!(
        selection.lines,
        [Line::new(
            Level::Info,
            "Agent detected, checking agent certificates"
        )]
    );
    let now = Moment::new(UnixTime::from_secs(1_795_332_595), 0);
    let report = report(empty.path(), &selection.services, now).await;
    let stdout = |format| render(&report, format).stdout;
    assert_eq!(stdout(Format::Json), "{\"Certificates\":null}\n");
    assert_eq!(stdout(Format::Yaml), "certificates: []\n");
    assert_eq!(
        stdout(Format::Table),
        "\nFILENAME   SUBJECT   USAGES   EXPIRES   RESIDUAL TIME   STATUS\n\
         --------   -------   ------   -------   -------------   ------\n"
    );
    assert_eq!(render(&report, Format::Text).lines, []);
    let first = &report.skipped[0];
    assert_eq!(first.level, Level::Debug);
    assert_eq!(
        first.text,
        "open /var/lib/rancher/k3s/server/tls/client-kube-proxy.crt: no such file or directory"
    );
}

#[tokio::test]
async fn damaged_files_are_passed_over() {
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let root = fixture.data_dir();
    let tls = root.join("server/tls");
    let admin = fs::read_to_string(tls.join("client-admin.crt")).unwrap();
    // One good certificate before a damaged one: Go drops both.
    let damaged = admin.replace(
        "-----BEGIN CERTIFICATE-----\nMI",
        "-----BEGIN CERTIFICATE-----\nAA",
    );
    assert_ne!(damaged, admin);
    testkit_write(&tls.join("client-admin.crt"), &format!("{admin}{damaged}"));
    testkit_write(&tls.join("client-scheduler.crt"), "");
    fs::remove_file(tls.join("client-auth-proxy.crt")).unwrap();
    fs::remove_file(tls.join("client-supervisor.crt")).unwrap();
    fs::create_dir(tls.join("client-supervisor.crt")).unwrap();
    // A link is followed, as K3s follows it.
    fs::remove_file(tls.join("client-controller.crt")).unwrap();
    std::os::unix::fs::symlink("etcd/client.crt", tls.join("client-controller.crt")).unwrap();
    let names = ["admin,auth-proxy,controller-manager,scheduler,supervisor".to_owned()];
    let selection = select(&LocalHost, &K3S, &layout(&root), &names, "checking")
        .await
        .unwrap();
    let now = Moment::new(UnixTime::from_secs(1_795_332_595), 0);
    let report = report(&root, &selection.services, now).await;
    let seen: Vec<_> = report
        .certificates
        .iter()
        .map(|line| (line.filename.as_str(), line.subject.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("client-controller.crt", "etcd-client"),
            ("client-controller.crt", "etcd-server-ca@1795328351"),
            ("kube-controller-manager.crt", "kube-controller-manager"),
            ("kube-controller-manager.crt", "k3s-server-ca@1795328351"),
            ("kube-scheduler.crt", "kube-scheduler"),
            ("kube-scheduler.crt", "k3s-server-ca@1795328351"),
        ]
    );
    let skipped: Vec<_> = report
        .skipped
        .iter()
        .map(|line| line.text.as_str())
        .collect();
    let t = "/var/lib/rancher/k3s/server/tls";
    let none = "data does not contain any valid RSA or ECDSA certificates";
    for expected in [
        format!("error reading {t}/client-admin.key: {none}"),
        format!("error reading {t}/client-scheduler.crt: {none}"),
        format!("open {t}/client-auth-proxy.crt: no such file or directory"),
        format!("read {t}/client-supervisor.crt: is a directory"),
    ] {
        assert!(
            skipped.contains(&expected.as_str()),
            "{expected} is not in {skipped:#?}"
        );
    }
    let damaged = skipped
        .iter()
        .find(|text| text.contains("client-admin.crt"))
        .unwrap();
    assert!(
        damaged.starts_with(&format!("error reading {t}/client-admin.crt: malformed")),
        "{damaged}"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test damages a file of its own copy"
)]
fn testkit_write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn status_turns_on_the_nanosecond() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.data_dir();
    let selection = selected(&root).await;
    let begin = time("2026-11-22T05:19:12Z");
    let end = time("2027-11-22T05:19:12Z");
    let day = 86_400;
    for (now, status, shown) in [
        (
            Moment::new(begin.plus(-1), 999_999_999),
            Status::NotYetValid,
            begin,
        ),
        (Moment::new(begin, 0), Status::Ok, end),
        (Moment::new(end.plus(-120 * day), 0), Status::Ok, end),
        (Moment::new(end.plus(-120 * day), 1), Status::Warning, end),
        (Moment::new(end, 0), Status::Warning, end),
        (Moment::new(end, 1), Status::Expired, end),
    ] {
        let report = report(&root, &selection.services, now).await;
        let leaf = &report.certificates[0];
        assert_eq!((leaf.status, leaf.expiry), (status, shown), "{now:?}");
    }
    let now = Moment::new(end.plus(-90 * day), 0);
    let report = check(
        &LocalHost,
        &K3S,
        &layout(&root),
        &selection.services,
        now,
        90,
    )
    .await;
    assert_eq!(report.certificates[0].status, Status::Ok);
}

#[tokio::test]
async fn every_status_has_its_words() {
    let fixture = Fixture::without_datastore("k3s-1.36-agent-only");
    let root = fixture.data_dir();
    let selection = selected(&root).await;
    let leaf = "client-kube-proxy.crt: certificate system:kube-proxy (ClientAuth)";
    for (now, level, words, table) in [
        (
            "2026-11-22T05:00:00Z",
            Level::Error,
            "is not valid before 2026-11-22T05:19:12Z",
            "Nov 22, 2026 05:19 UTC   1 year          NOT YET VALID",
        ),
        (
            "2027-11-01T00:00:00Z",
            Level::Warning,
            "will expire within 120 days at 2027-11-22T05:19:12Z",
            "Nov 22, 2027 05:19 UTC   3 weeks         WARNING",
        ),
        (
            "2027-11-22T05:19:13Z",
            Level::Error,
            "expired at 2027-11-22T05:19:12Z",
            "Nov 22, 2027 05:19 UTC   1 second        EXPIRED",
        ),
    ] {
        let report = report(&root, &selection.services, Moment::new(time(now), 0)).await;
        let lines = render(&report, Format::Text).lines;
        assert_eq!(lines[0], Line::new(level, format!("{leaf} {words}")));
        let rows = render(&report, Format::Table).stdout;
        assert!(rows.lines().nth(3).unwrap().ends_with(table), "{rows}");
    }
}
