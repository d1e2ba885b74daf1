//! One program at a time works on a host.

use kubepki::host::HostError;
use kubepki::machine::Machine as _;
use testkit::rke::{Host, Network, TOOLS_IMAGE, USER};

use crate::containers::container;
use crate::world::{World, chain, deployment, file};

#[tokio::test]
async fn of_two_owners_one_has_the_host() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let worlds = ["root", USER].map(|user| World::over_ssh(&host, user));
    let owners = ["plan-a", "plan-b"];
    for _ in 0..5 {
        let (a, b) = tokio::join!(
            worlds[0].machine.lock(owners[0]),
            worlds[1].machine.lock(owners[1])
        );
        let winner = usize::from(a.is_err());
        let loser = 1 - winner;
        let error = a.err().or(b.err()).expect("only one can have it");
        let said = chain(&error);
        assert!(matches!(error, HostError::Remote { .. }), "{said}");
        assert!(
            said.contains(owners[winner]) && said.contains("ago"),
            "{said}"
        );
        // The loser's unlock takes nothing away.
        worlds[loser].machine.unlock(owners[loser]).await.unwrap();
        assert!(worlds[loser].machine.lock(owners[loser]).await.is_err());
        let set = deployment("plan-c-01", [("a", Some(file("x", 0o600, 0)))]);
        assert!(worlds[loser].machine.deploy(&set).await.is_err());
        // The same owner, a second program: after a crash.
        let again = World::over_ssh(&host, ["root", USER][winner]);
        again.machine.lock(owners[winner]).await.unwrap();
        again.machine.unlock(owners[winner]).await.unwrap();
        again.machine.unlock(owners[winner]).await.unwrap();
        assert_eq!(host.docker().names().unwrap(), Vec::<String>::new());
        worlds[winner].machine.unlock(owners[winner]).await.unwrap();
    }
}

#[tokio::test]
async fn a_container_of_that_name_that_is_not_ours_stays() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    host.docker().create(&container("kubepki", "true"));
    let world = World::over_ssh(&host, USER);
    let said = chain(&world.machine.lock("p1").await.unwrap_err());
    assert!(said.contains("did not make"), "{said}");
    world.machine.unlock("p1").await.unwrap();
    assert_eq!(host.docker().names().unwrap(), ["kubepki"]);
}

/// The helper is made from what the host has; an image without a shell is passed over.
#[tokio::test]
async fn an_image_without_a_shell_is_no_helper() {
    let network = Network::start();
    let host = Host::start(&network, "h1", 11);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/tool", &b"tool"[..])
        .unwrap();
    host.docker()
        .import("company/bare:1", &tar.into_inner().unwrap());
    let mut spec = crate::world::spec(&host, USER);
    spec.images = vec!["company/bare:1".to_owned()];
    let world = World::by(spec.clone());
    world.machine.lock("p1").await.unwrap();
    assert_eq!(
        world.heard(&format!("FilesByDocker {{ image: {TOOLS_IMAGE:?}")),
        1,
        "{:?}",
        world.heard
    );
    world.machine.unlock("p1").await.unwrap();
    // Only that one: the error says so, and nothing is left.
    for image in [
        TOOLS_IMAGE,
        testkit::rke::ETCD_IMAGE,
        testkit::rke::KUBERNETES_IMAGE,
    ] {
        host.docker()
            .call(
                "DELETE",
                &format!("/images/{image}?force=true"),
                "text/plain",
                b"",
            )
            .unwrap();
    }
    let world = World::by(spec);
    let said = chain(&world.machine.lock("p1").await.unwrap_err());
    assert!(
        said.contains("company/bare:1") && said.contains("`sh`"),
        "{said}"
    );
    assert_eq!(host.docker().names().unwrap(), Vec::<String>::new());
}
