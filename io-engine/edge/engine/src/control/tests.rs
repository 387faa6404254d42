//! The control logic against a fake data plane: idempotence, order of storing and acting, restart, faults.

use std::sync::Arc;
use std::time::Duration;

use engine_config::DeclaredDevice;

use super::dataplane::{Access, DataPlane, Problem, ProblemKind, Writers};
use super::fake::FakePlane;
use super::{Engine, Options, identity};
use crate::store::Store;

const M0: &str = "malloc:///m0?size_mb=1";
const HOST: &str = "nqn.2014-08.org.example:host";

#[tokio::test]
async fn a_device_is_created_listed_and_destroyed() {
    let world = World::new().await;
    let bdev = world.engine.create_bdev(M0).await.unwrap();
    assert_eq!(
        (bdev.name.as_str(), bdev.blocks, bdev.block_size),
        ("m0", 2048, 512)
    );
    assert!(!bdev.claimed && bdev.share_uri.is_none() && bdev.fault.is_none());
    assert_eq!(world.engine.bdevs(), [bdev]);
    world.engine.destroy_bdev(M0).await.unwrap();
    assert!(world.engine.bdevs().is_empty() && world.plane.open_devices().is_empty());
    assert_kind(world.engine.destroy_bdev(M0).await, ProblemKind::NotFound);
}

#[tokio::test]
async fn creating_twice_is_refused_unless_a_new_size_is_asked_for() {
    let world = World::new().await;
    world.engine.create_bdev(M0).await.unwrap();
    assert_kind(
        world.engine.create_bdev(M0).await,
        ProblemKind::AlreadyExists,
    );
    assert_kind(
        world.engine.create_bdev("null:///m0?size_mb=1").await,
        ProblemKind::AlreadyExists,
    );
    assert_eq!(
        world.plane.open_devices(),
        ["m0"],
        "nothing else was left open"
    );

    let larger = world
        .engine
        .create_bdev("malloc:///m0?size_mb=2&resize")
        .await
        .unwrap();
    assert_eq!(larger.blocks, 4096);
    assert_eq!(larger.uri, "malloc:///m0?size_mb=2");
    let restarted = world.restart().await;
    assert_eq!(
        restarted.engine.bdev("m0").unwrap().blocks,
        4096,
        "the new size lasts"
    );
}

#[tokio::test]
async fn rescanning_takes_over_the_size() {
    let world = World::new().await;
    world.engine.create_bdev("aio:///f").await.unwrap();
    assert_eq!(
        world
            .engine
            .create_bdev("aio:///f?rescan")
            .await
            .unwrap()
            .blocks,
        2049
    );
    assert_eq!(
        world.engine.rescan_bdev("/f", false).await.unwrap().blocks,
        2050
    );
    assert_kind(
        world.engine.rescan_bdev("/g", false).await,
        ProblemKind::NotFound,
    );
}

#[tokio::test]
async fn one_uuid_names_one_device() {
    let world = World::new().await;
    let uuid = "3fa85f64-5717-4562-b3fc-2c963f66afa6";
    world
        .engine
        .create_bdev(&format!("malloc:///a?uuid={uuid}"))
        .await
        .unwrap();
    assert_kind(
        world
            .engine
            .create_bdev(&format!("malloc:///b?uuid={uuid}"))
            .await,
        ProblemKind::AlreadyExists,
    );
    assert_eq!(world.plane.open_devices(), ["a"]);
}

#[tokio::test]
async fn a_share_has_the_identity_hosts_expect() {
    let world = World::new().await;
    let bdev = world.engine.create_bdev(M0).await.unwrap();
    let shared = world
        .engine
        .share_bdev("m0", vec![HOST.into()], Access::ReadWrite)
        .await
        .unwrap();
    assert!(shared.claimed);
    assert_eq!(
        shared.share_uri.unwrap(),
        "nvmf+tcp://127.0.0.1:8420/nqn.2019-05.io.openebs:m0"
    );
    let served = world.plane.served();
    assert_eq!(served[0].serial, identity::serial_of(bdev.uuid));
    assert_eq!(served[0].allowed_hosts, Some(vec![HOST.to_owned()]));
    let namespace = &served[0].namespaces[0];
    assert_eq!(
        (namespace.nsid, namespace.uuid, namespace.nguid),
        (1, bdev.uuid, *bdev.uuid.as_bytes())
    );
}

#[tokio::test]
async fn sharing_again_replaces_the_list_but_an_empty_one_does_not_open_it() {
    let world = World::shared(vec![HOST.into()]).await;
    world
        .engine
        .share_bdev("m0", Vec::new(), Access::ReadWrite)
        .await
        .unwrap();
    assert_eq!(
        world.plane.served()[0].allowed_hosts,
        Some(vec![HOST.to_owned()])
    );
    let other = "nqn.2014-08.org.example:other";
    world
        .engine
        .share_bdev("m0", vec![other.into()], Access::ReadWrite)
        .await
        .unwrap();
    assert_eq!(
        world.plane.served()[0].allowed_hosts,
        Some(vec![other.to_owned()])
    );
    assert_kind(
        world
            .engine
            .share_bdev("m0", vec!["bad".into()], Access::ReadWrite)
            .await,
        ProblemKind::InvalidArgument,
    );
    assert_kind(
        world
            .engine
            .share_bdev("none", Vec::new(), Access::ReadWrite)
            .await,
        ProblemKind::NotFound,
    );
}

#[tokio::test]
async fn unsharing_is_idempotent_and_keeps_reservations_until_the_device_goes() {
    let world = World::shared(Vec::new()).await;
    let nqn = identity::nqn_of("m0");
    world.store.save_reservation(&nqn, 1, b"held").unwrap();
    world.engine.unshare_bdev("m0").await.unwrap();
    world.engine.unshare_bdev("m0").await.unwrap();
    world.engine.unshare_bdev("never was").await.unwrap();
    assert!(world.plane.served().is_empty());
    let world = world.restart().await;
    assert_eq!(
        world.store.load_reservation(&nqn, 1).unwrap().unwrap(),
        b"held"
    );
    world.engine.destroy_bdev(M0).await.unwrap();
    assert_eq!(world.store.load_reservation(&nqn, 1).unwrap(), None);
}

#[tokio::test]
async fn a_device_is_shared_one_way_at_a_time_and_over_another_protocol_again_after_a_restart() {
    let world = World::shared(Vec::new()).await;
    assert_kind(
        world
            .engine
            .export_bdev("m0", "nbd", Access::ReadWrite)
            .await,
        ProblemKind::Busy,
    );
    world.engine.unshare_bdev("m0").await.unwrap();
    assert_kind(
        world
            .engine
            .export_bdev("m0", "smb", Access::ReadWrite)
            .await,
        ProblemKind::Unsupported,
    );
    assert!(world.engine.bdev("m0").unwrap().share_uri.is_none());
    for _ in 0..2 {
        let shared = world
            .engine
            .export_bdev("m0", "nbd", Access::ReadWrite)
            .await
            .unwrap();
        assert!(shared.claimed);
        assert_eq!(shared.share_uri.unwrap(), "nbd://127.0.0.1:10809/m0");
    }
    assert_kind(
        world
            .engine
            .share_bdev("m0", Vec::new(), Access::ReadWrite)
            .await,
        ProblemKind::AlreadyExists,
    );

    let world = world.restart().await;
    assert_eq!(world.plane.exported(), ["m0"]);
    world.engine.unshare_bdev("m0").await.unwrap();
    assert!(world.plane.exported().is_empty());
    let world = world.restart().await;
    assert!(world.plane.exported().is_empty());

    world
        .engine
        .export_bdev("m0", "nbd", Access::ReadWrite)
        .await
        .unwrap();
    world.engine.destroy_bdev(M0).await.unwrap();
    assert!(world.plane.exported().is_empty());
    assert!(world.store.load().unwrap().exports.is_empty());
}

#[tokio::test]
async fn a_share_stays_read_only_over_a_restart_and_is_not_widened_by_sharing_again() {
    let world = World::new().await;
    world.engine.create_bdev(M0).await.unwrap();
    let share = |world: &World, access| {
        let engine = Arc::clone(&world.engine);
        async move { engine.share_bdev("m0", Vec::new(), access).await }
    };
    let access = |world: &World| world.plane.served()[0].namespaces[0].access;
    share(&world, Access::ReadOnly).await.unwrap();
    share(&world, Access::ReadOnly).await.unwrap();
    let refused = share(&world, Access::ReadWrite).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.to_string().as_str()),
        (
            ProblemKind::AlreadyExists,
            "device 'm0' is shared read-only already; unshare it first"
        )
    );
    assert_eq!(access(&world), Access::ReadOnly);
    let world = world.restart().await;
    assert_eq!(access(&world), Access::ReadOnly);
    world.engine.unshare_bdev("m0").await.unwrap();
    share(&world, Access::ReadWrite).await.unwrap();
    assert_eq!(access(&world), Access::ReadWrite);
    world.engine.unshare_bdev("m0").await.unwrap();

    let export = |world: &World, access| {
        let engine = Arc::clone(&world.engine);
        async move { engine.export_bdev("m0", "nbd", access).await }
    };
    let access = |world: &World| world.plane.export_of("m0").unwrap().access;
    export(&world, Access::ReadOnly).await.unwrap();
    assert_kind(
        export(&world, Access::ReadWrite).await,
        ProblemKind::AlreadyExists,
    );
    assert_eq!(access(&world), Access::ReadOnly);
    let world = world.restart().await;
    assert_eq!(access(&world), Access::ReadOnly);
}

#[tokio::test]
async fn a_command_reaches_its_device() {
    let world = World::shared(Vec::new()).await;
    let answer = world.engine.command_bdev("m0", "list").await.unwrap();
    assert_eq!(answer, "nothing wrong with m0");
    assert_kind(
        world.engine.command_bdev("m0", "explode").await,
        ProblemKind::InvalidArgument,
    );
    assert_kind(
        world.engine.command_bdev("none", "list").await,
        ProblemKind::NotFound,
    );
}

#[tokio::test]
async fn a_share_the_reactors_refuse_leaves_nothing_behind() {
    let world = World::new().await;
    world.engine.create_bdev(M0).await.unwrap();
    world.plane.refuse_subsystems(true);
    assert_kind(
        world
            .engine
            .share_bdev("m0", Vec::new(), Access::ReadWrite)
            .await,
        ProblemKind::ResourceExhausted,
    );
    assert!(world.engine.subsystems().is_empty());
    assert!(world.store.load().unwrap().subsystems.is_empty());
}

#[tokio::test]
async fn a_restart_serves_the_same_identities() {
    let world = World::shared(vec![HOST.into()]).await;
    world.engine.create_bdev("malloc:///m1").await.unwrap();
    let nqn = identity::nqn_of("m0");
    world.engine.add_namespace(&nqn, "m1", None).await.unwrap();
    let before = world.engine.subsystems();
    let devices = world.engine.bdevs();
    let world = world.restart().await;
    assert_eq!(world.engine.subsystems(), before);
    assert_eq!(
        world.engine.bdevs(),
        devices,
        "uuids nobody gave are kept too"
    );
    assert_eq!(world.plane.served()[0].namespaces.len(), 2);
}

#[tokio::test]
async fn a_broken_device_is_listed_retried_and_blocks_nobody() {
    let world = World::shared(Vec::new()).await;
    world.engine.create_bdev("malloc:///good").await.unwrap();
    world
        .engine
        .share_bdev("good", Vec::new(), Access::ReadWrite)
        .await
        .unwrap();
    let world = world
        .restart_with(|plane| plane.break_device("m0", true))
        .await;

    let broken = world.engine.bdev("m0").unwrap();
    assert_eq!(broken.fault.as_deref(), Some("m0 is not there"));
    assert_eq!((broken.blocks, broken.uri.as_str()), (0, M0));
    let served: Vec<String> = world
        .plane
        .served()
        .into_iter()
        .map(|spec| spec.nqn)
        .collect();
    assert_eq!(served, [identity::nqn_of("good")]);
    let subsystem = world.engine.subsystem(&identity::nqn_of("m0")).unwrap();
    assert!(subsystem.fault.unwrap().contains("is faulted"));
    assert_kind(
        world.engine.rescan_bdev("m0", false).await,
        ProblemKind::NotFound,
    );

    world.plane.break_device("m0", false);
    let mended = world.engine.create_bdev(M0).await.unwrap();
    assert_eq!((mended.fault, mended.blocks), (None, 2048));
    assert_eq!(
        world.plane.served().len(),
        2,
        "its subsystem came back with it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_that_hangs_is_given_up_and_the_others_start() {
    let world = World::shared(Vec::new()).await;
    world.engine.create_bdev("malloc:///good").await.unwrap();
    let world = world.restart_with(|plane| plane.hang_device("m0")).await;
    let fault = || world.engine.bdev("m0").unwrap().fault.unwrap();
    assert_eq!(
        fault(),
        "it is being opened",
        "the start did not wait for it"
    );
    assert!(world.engine.bdev("good").unwrap().fault.is_none());
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert!(fault().contains("did not open within 20 s"));
    // When it answers after all, it is closed.
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(world.plane.open_devices(), ["good"]);
}

#[tokio::test]
async fn namespaces_are_added_and_removed() {
    let world = World::shared(Vec::new()).await;
    let nqn = identity::nqn_of("m0");
    world.engine.create_bdev("malloc:///m1").await.unwrap();
    let engine = &world.engine;
    assert_kind(
        engine.add_namespace("nqn.x", "m1", None).await,
        ProblemKind::NotFound,
    );
    assert_kind(
        engine.add_namespace(&nqn, "m9", None).await,
        ProblemKind::NotFound,
    );
    assert_kind(
        engine.add_namespace(&nqn, "m1", Some(1)).await,
        ProblemKind::AlreadyExists,
    );
    assert_kind(
        engine.add_namespace(&nqn, "m1", Some(0)).await,
        ProblemKind::InvalidArgument,
    );
    assert_kind(
        engine.add_namespace(&nqn, "m0", None).await,
        ProblemKind::AlreadyExists,
    );
    let view = engine.add_namespace(&nqn, "m1", Some(5)).await.unwrap();
    assert_eq!(
        view.namespaces.iter().map(|ns| ns.nsid).collect::<Vec<_>>(),
        [1, 5]
    );
    assert_kind(engine.destroy_bdev("malloc:///m1").await, ProblemKind::Busy);
    assert_kind(engine.unshare_bdev("m0").await, ProblemKind::Busy);
    let told = engine.unshare_bdev("m1").await.unwrap_err();
    assert_eq!(told.kind(), ProblemKind::Busy);
    let text = format!("device 'm1' is namespace 5 of '{nqn}'");
    assert!(told.to_string().contains(&text), "{told}");

    world.store.save_reservation(&nqn, 5, b"held").unwrap();
    engine.remove_namespace(&nqn, 5).await.unwrap();
    assert_eq!(
        world.store.load_reservation(&nqn, 5).unwrap(),
        None,
        "the next namespace 5 starts free"
    );
    assert_kind(
        engine.remove_namespace(&nqn, 5).await,
        ProblemKind::NotFound,
    );
    engine.destroy_bdev("malloc:///m1").await.unwrap();
    assert_eq!(world.plane.served()[0].namespaces.len(), 1);
}

#[tokio::test]
async fn allow_lists_change_live_and_last() {
    let world = World::shared(Vec::new()).await;
    let nqn = identity::nqn_of("m0");
    world
        .engine
        .set_allowed_hosts(&nqn, Some(vec![HOST.into(), HOST.into()]))
        .await
        .unwrap();
    assert_eq!(
        world.plane.served()[0].allowed_hosts,
        Some(vec![HOST.to_owned()]),
        "each host once"
    );
    let world = world.restart().await;
    assert_eq!(
        world.plane.served()[0].allowed_hosts,
        Some(vec![HOST.to_owned()])
    );
    world
        .engine
        .set_allowed_hosts(&nqn, Some(Vec::new()))
        .await
        .unwrap();
    assert_eq!(
        world.plane.served()[0].allowed_hosts,
        Some(Vec::new()),
        "nobody"
    );
    world.engine.set_allowed_hosts(&nqn, None).await.unwrap();
    assert_eq!(world.plane.served()[0].allowed_hosts, None, "anybody");
}

#[tokio::test]
async fn declared_devices_are_created_once() {
    let declared = vec![
        DeclaredDevice {
            uri: "bad".into(),
            share: false,
            read_only: false,
            allowed_hosts: Vec::new(),
        },
        DeclaredDevice {
            uri: M0.into(),
            share: true,
            read_only: false,
            allowed_hosts: vec![HOST.into()],
        },
    ];
    let store = Arc::new(Store::in_memory().unwrap());
    let start = |plane: Arc<FakePlane>| {
        let options = Options {
            declared: declared.clone(),
            ..options()
        };
        Engine::start(Arc::clone(&store), plane, options)
    };
    let first = start(Arc::default()).await.unwrap();
    let before = first.subsystems();
    assert_eq!(before[0].allowed_hosts, Some(vec![HOST.to_owned()]));
    drop(first);
    let second = start(Arc::default()).await.unwrap();
    assert_eq!(second.subsystems(), before);
}

#[tokio::test(start_paused = true)]
async fn remembered_devices_that_take_long_hold_up_no_declared_one() {
    let world = World::shared(Vec::new()).await;
    world.engine.create_bdev("aio:///slow").await.unwrap();
    let (store, nqn) = (world.store, identity::nqn_of("/slow"));
    let plane = Arc::new(FakePlane::default());
    plane.hang_device("m0");
    plane.slow_device("/slow", Duration::from_secs(5));
    let declare = |uri: &str| DeclaredDevice {
        uri: uri.into(),
        share: true,
        read_only: false,
        allowed_hosts: vec![HOST.into()],
    };
    let options = Options {
        // The hanging one first: it must not be waited for in its turn either.
        declared: vec![
            declare(M0),
            declare("aio:///slow"),
            declare("malloc:///new"),
        ],
        ..options()
    };
    let data_plane: Arc<dyn DataPlane> = Arc::<FakePlane>::clone(&plane);
    let engine = Engine::start(store, data_plane, options).await.unwrap();
    let new = engine.bdev("new").expect("there when the start is done");
    assert!(new.share_uri.is_some());
    assert_eq!(
        engine.bdev("m0").unwrap().fault.as_deref(),
        Some("it is being opened")
    );
    assert!(engine.subsystem(&nqn).is_err());

    tokio::time::sleep(Duration::from_secs(21)).await;
    let slow = engine.subsystem(&nqn).expect("shared once it was open");
    assert_eq!(slow.allowed_hosts, Some(vec![HOST.to_owned()]));
    assert!(
        engine
            .bdev("m0")
            .unwrap()
            .fault
            .unwrap()
            .contains("did not open")
    );
}

#[tokio::test]
async fn a_change_is_finished_when_the_caller_hangs_up() {
    let world = World::new().await;
    let call = world.engine.create_bdev(M0);
    // Polled once, then dropped.
    assert!(
        tokio::time::timeout(Duration::ZERO, call).await.is_err()
            || world.engine.bdev("m0").is_some()
    );
    // The next change waits its turn, so the first is done by then.
    world.engine.unshare_bdev("x").await.unwrap();
    assert!(world.engine.bdev("m0").is_some());
}

#[tokio::test]
async fn stats_carry_names_and_are_reset() {
    let world = World::shared(Vec::new()).await;
    world.plane.count_read("m0", 4096, 5_000);
    let stats = world.engine.io_stats().await;
    assert_eq!(
        (
            stats[0].kind,
            stats[0].name.as_str(),
            stats[0].stats.ops[0].bytes
        ),
        ("device", "m0", 4096)
    );
    assert_eq!(stats[1].kind, "subsystem");
    world.engine.reset_stats().await;
    assert_eq!(world.engine.io_stats().await[0].stats.ops[0].ops, 0);
}

#[tokio::test]
async fn a_device_lost_while_it_is_shared_is_shown_and_comes_back_as_itself() {
    let world = World::new().await;
    let before = world.engine.create_bdev("aio:///f").await.unwrap();
    world
        .engine
        .share_bdev("/f", vec![], Access::ReadWrite)
        .await
        .unwrap();
    world.engine.create_bdev("aio:///unshared").await.unwrap();
    let served = world.plane.served();
    for name in ["/f", "/unshared"] {
        world.plane.lose_device(name);
        let lost = world.engine.bdev(name).unwrap();
        assert!(lost.fault.unwrap().contains("bdev rescan"));
        assert_eq!((lost.blocks, lost.block_size), (2048, 512), "hosts know it");
    }
    let refused = world
        .engine
        .share_bdev("/unshared", vec![], Access::ReadWrite)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ProblemKind::Busy);
    assert_eq!(refused.to_string().matches("bdev rescan").count(), 1);

    world.plane.break_device("/f", true);
    assert_kind(
        world.engine.rescan_bdev("/f", false).await,
        ProblemKind::NotFound,
    );
    let still = world.engine.bdev("/f").unwrap();
    assert!(still.fault.is_some() && still.share_uri.is_some());
    assert_kind(
        world.engine.create_bdev("aio:///f?blk_size=4096").await,
        ProblemKind::AlreadyExists,
    );

    world.plane.break_device("/f", false);
    // Created again by the URI it is listed with, as a control plane does.
    let uri = format!("aio:///f?uuid={}", before.uuid);
    let back = world.engine.create_bdev(&uri).await.unwrap();
    assert_eq!((back.uuid, back.fault), (before.uuid, None));
    assert_eq!(world.plane.served(), served, "under the same namespace");
    world.engine.rescan_bdev("/unshared", false).await.unwrap();
    assert_kind(
        world.engine.create_bdev(&uri).await,
        ProblemKind::AlreadyExists,
    );
}

#[tokio::test]
async fn a_share_ends_when_its_hosts_writes_have_ended() {
    let world = World::new().await;
    world.engine.create_bdev(M0).await.unwrap();
    world
        .engine
        .share_bdev("m0", vec![], Access::ReadWrite)
        .await
        .unwrap();
    world.plane.settled();
    world.plane.keep_writes("m0", true);
    for _ in 0..2 {
        assert_kind(world.engine.unshare_bdev("m0").await, ProblemKind::Timeout);
        assert!(world.plane.served().is_empty(), "unreachable all the same");
    }
    let told = world.engine.destroy_bdev(M0).await.unwrap_err();
    assert_eq!(told.kind(), ProblemKind::Timeout);
    assert!(told.to_string().contains("forgotten, but not closed"));
    assert!(world.engine.bdev("m0").is_some(), "to be destroyed again");
    world.plane.keep_writes("m0", false);
    world.engine.unshare_bdev("m0").await.unwrap();
    let everybody = (vec!["m0".to_owned()], Writers::All);
    assert!(
        world
            .plane
            .settled()
            .iter()
            .all(|waited| *waited == everybody)
    );
    world.engine.destroy_bdev(M0).await.unwrap();
    assert!(world.plane.open_devices().is_empty());
}

#[tokio::test]
async fn an_allow_list_holds_when_the_writes_of_hosts_off_it_have_ended() {
    let world = World::new().await;
    world.engine.create_bdev(M0).await.unwrap();
    world
        .engine
        .share_bdev("m0", vec![], Access::ReadWrite)
        .await
        .unwrap();
    let nqn = identity::nqn_of("m0");
    world.plane.keep_writes("m0", true);
    let only = || Some(vec![HOST.to_owned()]);
    assert_kind(
        world.engine.set_allowed_hosts(&nqn, only()).await,
        ProblemKind::Timeout,
    );
    assert_eq!(world.plane.served()[0].allowed_hosts, only());
    world.plane.keep_writes("m0", false);
    world.engine.set_allowed_hosts(&nqn, only()).await.unwrap();
    let gone = (vec!["m0".to_owned()], Writers::Gone);
    assert_eq!(world.plane.settled(), [gone.clone(), gone]);
    world.engine.remove_namespace(&nqn, 1).await.unwrap();
    let all = (vec!["m0".to_owned()], Writers::All);
    assert_eq!(world.plane.settled(), [all]);
}

#[tokio::test]
async fn a_name_that_does_not_print_is_refused() {
    let world = World::new().await;
    let refused = world.engine.create_bdev("aio:///a%0ab").await.unwrap_err();
    assert_eq!(refused.kind(), ProblemKind::InvalidUri);
    let text = refused.to_string();
    assert!(
        text.contains("aio:///a%0ab") && !text.contains('\n'),
        "{text}"
    );
    assert!(world.engine.bdevs().is_empty() && world.plane.open_devices().is_empty());
}

#[tokio::test]
async fn what_hosts_are_to_be_told_of_a_loss_outlives_the_engine() {
    let world = World::shared(vec![]).await;
    assert!(!world.engine.bdev("m0").unwrap().writes_lost);
    world.plane.lose_writes("m0", &[HOST]);
    until(|| world.engine.bdev("m0").unwrap().writes_lost).await;
    let warning = world.engine.device_warnings().await.remove("m0").unwrap();
    assert!(
        warning.contains("bdev rescan --accept-loss m0"),
        "{warning}"
    );
    // A host more comes to know.
    let other = "nqn.2014-08.org.example:other";
    world.plane.lose_writes("m0", &[HOST, other]);
    until(|| world.store.load().unwrap().losses["m0"].told.len() == 2).await;

    let world = world.restart().await;
    assert_eq!(world.plane.loss_of("m0").unwrap(), [HOST, other]);
    assert_eq!(world.plane.served().len(), 1);
    assert!(world.engine.bdev("m0").unwrap().writes_lost);
    // A device that opens late is told of all the same.
    let world = world
        .restart_with(|plane| plane.break_device("m0", true))
        .await;
    assert_eq!(world.plane.loss_of("m0"), None);
    world.plane.break_device("m0", false);
    world.engine.rescan_bdev("m0", false).await.unwrap();
    assert_eq!(world.plane.loss_of("m0").unwrap(), [HOST, other]);

    let accepted = world.engine.rescan_bdev("m0", true).await.unwrap();
    assert!(!accepted.writes_lost);
    assert_eq!(world.plane.loss_of("m0"), None);
    let world = world.restart().await;
    assert_eq!(world.plane.loss_of("m0"), None);

    // It goes with its device.
    world.plane.lose_writes("m0", &[]);
    until(|| world.store.load().unwrap().losses.contains_key("m0")).await;
    world.engine.destroy_bdev(M0).await.unwrap();
    assert!(world.store.load().unwrap().losses.is_empty());
}

#[tokio::test]
async fn a_device_that_hangs_at_its_creation_holds_up_nobody() {
    let world = World::new().await;
    world.plane.hang_device("slow");
    let engine = Arc::clone(&world.engine);
    let hanging = tokio::spawn(async move { engine.create_bdev("null:///slow").await });
    until(|| world.engine.is_being_created("slow")).await;
    world.engine.create_bdev(M0).await.unwrap();
    world
        .engine
        .share_bdev("m0", vec![], Access::ReadWrite)
        .await
        .unwrap();
    assert_kind(
        world.engine.create_bdev("null:///slow").await,
        ProblemKind::AlreadyExists,
    );
    assert_kind(
        world.engine.destroy_bdev("null:///slow").await,
        ProblemKind::NotFound,
    );
    world.engine.destroy_bdev(M0).await.unwrap();
    hanging.abort();
}

#[tokio::test]
async fn a_device_taken_out_of_its_own_subsystem_is_not_shared_and_can_be_again() {
    let world = World::shared(vec![HOST.into()]).await;
    let nqn = identity::nqn_of("m0");
    world.engine.remove_namespace(&nqn, 1).await.unwrap();
    let bdev = world.engine.bdev("m0").unwrap();
    assert_eq!((bdev.claimed, &bdev.share_uri), (false, &None));
    let shared = world
        .engine
        .share_bdev("m0", vec![], Access::ReadWrite)
        .await
        .unwrap();
    assert!(shared.claimed && shared.share_uri.is_some());
    let served = world.plane.served();
    assert_eq!(served[0].namespaces.len(), 1);
    assert_eq!(served[0].allowed_hosts, Some(vec![HOST.to_owned()]));
}

/// Waits for what a task of the engine does by itself.
async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never happened");
}

#[tokio::test]
async fn devices_that_wait_for_a_plugin_come_up_when_it_is_loaded() {
    let store = Arc::new(Store::in_memory().unwrap());
    let plane = Arc::new(FakePlane::default());
    plane.offer_plugin("late.so", "late");
    let world = World::start(store, plane).await;
    world.engine.load_plugin("late.so").await.unwrap();
    world.engine.create_bdev("late:///one").await.unwrap();
    world
        .engine
        .share_bdev("one", vec![HOST.into()], Access::ReadWrite)
        .await
        .unwrap();
    world.engine.create_bdev(M0).await.unwrap();
    let identity = world.engine.bdev("one").unwrap().uuid;

    // The next start has no such plugin, and two devices that are broken besides.
    let mut options = options();
    options.declared = vec![DeclaredDevice {
        uri: "late:///two".into(),
        share: true,
        read_only: false,
        allowed_hosts: Vec::new(),
    }];
    let plane = Arc::new(FakePlane::default());
    plane.offer_plugin("late.so", "late");
    plane.offer_plugin("other.so", "other");
    plane.break_device("m0", true);
    let data_plane: Arc<dyn DataPlane> = Arc::<FakePlane>::clone(&plane);
    let engine = Engine::start(world.store, data_plane, options)
        .await
        .unwrap();
    assert!(engine.bdev("one").unwrap().fault.is_some() && engine.bdev("two").is_none());
    assert!(plane.served().is_empty());
    engine.load_plugin("other.so").await.unwrap();
    assert!(engine.bdev("one").unwrap().fault.is_some());

    engine.load_plugin("late.so").await.unwrap();
    let one = engine.bdev("one").unwrap();
    assert_eq!((one.fault, one.uuid), (None, identity));
    assert!(engine.bdev("two").unwrap().share_uri.is_some());
    assert_eq!(plane.served().len(), 2);
    assert!(engine.bdev("m0").unwrap().fault.is_some(), "not its plugin");
    assert_kind(
        engine.load_plugin("none.so").await.map(drop),
        ProblemKind::NotFound,
    );
}

struct World {
    engine: Arc<Engine>,
    plane: Arc<FakePlane>,
    store: Arc<Store>,
}

impl World {
    async fn new() -> Self {
        Self::start(Arc::new(Store::in_memory().unwrap()), Arc::default()).await
    }

    /// With `m0` created and shared.
    async fn shared(hosts: Vec<String>) -> Self {
        let world = Self::new().await;
        world.engine.create_bdev(M0).await.unwrap();
        world
            .engine
            .share_bdev("m0", hosts, Access::ReadWrite)
            .await
            .unwrap();
        world
    }

    async fn start(store: Arc<Store>, plane: Arc<FakePlane>) -> Self {
        let data_plane: Arc<dyn DataPlane> = Arc::<FakePlane>::clone(&plane);
        let engine = Engine::start(Arc::clone(&store), data_plane, options())
            .await
            .unwrap();
        Self {
            engine,
            plane,
            store,
        }
    }

    /// The same store under a new process.
    async fn restart(self) -> Self {
        self.restart_with(|_| ()).await
    }

    async fn restart_with(self, prepare: impl FnOnce(&FakePlane)) -> Self {
        let plane = Arc::new(FakePlane::default());
        prepare(&plane);
        Self::start(self.store, plane).await
    }
}

fn options() -> Options {
    Options {
        node_name: "node-1".into(),
        version: "0.0.0".into(),
        advertise: None,
        open_deadline: Duration::from_secs(20),
        declared: Vec::new(),
    }
}

fn assert_kind<T: std::fmt::Debug>(result: Result<T, Problem>, kind: ProblemKind) {
    let problem = result.expect_err("refused");
    assert_eq!(problem.kind(), kind, "{problem}");
}
