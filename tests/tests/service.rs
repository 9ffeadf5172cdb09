//! The proxy as a service of the system: it gives up root, tells the service manager how it stands, and does without
//! anything to write to.
//!
//! Only root can give up root: for others those tests say so and do nothing.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::Stdio;

use sluicegate_tests::certs::Authority;
use sluicegate_tests::client;
use sluicegate_tests::plugins::wasm;
use sluicegate_tests::proxy::{Proxy, binary};
use sluicegate_tests::soon;
use sluicegate_tests::upstream::Upstream;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

/// A user that is on every system, and a group that is not its own.
const USER: &str = "nobody";
const GROUP: &str = "daemon";

#[tokio::test]
async fn a_start_as_root_gives_it_up_for_good_once_everything_is_bound() {
    let Some((user, group)) = can_give_up_root() else {
        return;
    };
    let upstream = Upstream::describing("pages").await;
    let dir = owned_by(user, group);
    fs::copy(wasm("sluicegate-headers"), dir.path().join("headers.wasm")).unwrap();
    let listener = "[[listener]]\nbind = \"127.77.0.1:443\"\n";
    let rest = format!(
        "[admin]\nbind = \"unix:admin.sock\"\n\
         [runtime]\nworkers = 2\nuser = \"{USER}\"\ngroup = \"{GROUP}\"\n\
         [plugin.edit]\nwasm = \"headers.wasm\"\nconfig = {{ request = {{ set = {{ x-edited = \"yes\" }} }} }}\n\
         [[route]]\nto = \"{}\"\nplugins = [\"edit\"]\n",
        upstream.addr
    );
    let proxy = Proxy::start_in(dir, &format!("{listener}{rest}")).await;

    for task in fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let ids = line.unwrap().split_whitespace();
            ids.map(|id| id.parse().unwrap()).collect()
        };
        assert_eq!(ids("Uid:"), [user; 4], "{status}");
        assert_eq!(ids("Gid:"), [group; 4], "{status}");
        assert!(!ids("Groups:").contains(&0), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    // It may look at itself, as the plugin host does to clean memory.
    let own = fs::metadata(format!("/proc/{}/pagemap", proxy.pid())).unwrap();
    assert_eq!(own.uid(), user);
    assert!(!proxy.stderr_text().contains("serving as root"));
    let edited = async |proxy: &Proxy| {
        let (head, body) = client::get(proxy.addr(0), "/").await;
        assert_eq!(head.status, 200);
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(r#"["x-edited","yes"]"#), "{body}");
    };
    edited(&proxy).await;
    // What it made on its way belongs to whom it became.
    let cached = fs::read_dir(proxy.dir().join("cache/sluicegate/plugins")).unwrap();
    let owners: Vec<u32> = cached
        .map(|file| file.unwrap().metadata().unwrap().uid())
        .collect();
    assert!(!owners.is_empty());
    assert!(owners.iter().all(|owner| *owner == user), "{owners:?}");

    // So do its unix sockets, and their modes are about it.
    let socket = fs::metadata(proxy.dir().join("admin.sock")).unwrap();
    assert_eq!((socket.uid(), socket.gid()), (user, group));

    // A reload reads everything again, as this user.
    assert!(proxy.reload().await);
    edited(&proxy).await;
    let other = format!("{listener}{}", rest.replace(USER, "root"));
    proxy.rewrite_config(&other);
    assert!(proxy.reload().await);
    let told = "a change of `[runtime] user` or `group` needs a restart";
    proxy
        .log_line("the warning", |line| line.contains(told))
        .await;
    let first_port = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first_port.trim().parse::<u16>().unwrap() > 444 {
        let more = format!("{listener}[[listener]]\nbind = \"127.77.0.1:444\"\n{rest}");
        proxy.rewrite_config(&more);
        assert!(!proxy.reload().await);
        let told = "cannot listen on `127.77.0.1:444`";
        proxy
            .log_line("the reason", |line| line.contains(told))
            .await;
    }
    proxy.rewrite_config(&format!("{listener}{rest}"));
    fs::set_permissions(proxy.config_path(), Permissions::from_mode(0o600)).unwrap();
    chown(proxy.config_path(), Some(0), Some(0)).unwrap();
    assert!(!proxy.reload().await, "only root could read it");
    edited(&proxy).await;
}

#[tokio::test]
async fn what_only_root_can_read_is_an_error_at_the_start() {
    let Some((user, group)) = can_give_up_root() else {
        return;
    };
    let dir = owned_by(user, group);
    Authority::new("ca")
        .issue(&["a.test"])
        .write(dir.path(), "own");
    let key = dir.path().join("own.key");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    chown(&key, Some(0), Some(0)).unwrap();
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {{ cert = \"own.crt\", key = \"own.key\" }}\n\
         [[route]]\nrespond = {{}}\n[runtime]\nuser = \"{USER}\"\n"
    );
    let mut proxy = Proxy::spawn(dir, &config, |_| {});
    assert_eq!(proxy.exit_code().await, Some(3));
    let report = proxy.stderr_to_end().await;
    for told in ["own.key", "Permission denied", "sluicegate.toml:3:"] {
        assert!(report.contains(told), "{told}: {report}");
    }
}

#[tokio::test]
async fn a_configuration_that_only_root_can_read_is_one_too() {
    let Some((user, group)) = can_give_up_root() else {
        return;
    };
    let dir = owned_by(user, group);
    // What is written into it does not change whose it is.
    let file = File::create(dir.path().join("sluicegate.toml")).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {{}}\n[runtime]\nuser = \"{USER}\"\n"
    );
    let mut proxy = Proxy::spawn(dir, &config, |_| {});
    assert_eq!(proxy.exit_code().await, Some(3));
    let report = proxy.stderr_to_end().await;
    for told in [
        "Permission denied",
        ", as `nobody`",
        "sluicegate.toml:6:8",
        "each reload reads it",
    ] {
        assert!(report.contains(told), "{told}: {report}");
    }
}

#[tokio::test]
async fn whom_nobody_knows_or_only_root_could_become_is_an_error_with_its_place() {
    let config = |account: &str| {
        format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {{}}\n[runtime]\n{account}\n"
        )
    };
    let refused = async |config: &str, as_user: Option<(u32, u32)>, told: [&str; 2]| {
        let dir = match as_user {
            Some((user, group)) => owned_by(user, group),
            None => TempDir::new().unwrap(),
        };
        let mut proxy = Proxy::spawn(dir, config, |command| {
            if let Some((user, group)) = as_user {
                command.uid(user).gid(group);
            }
        });
        assert_eq!(proxy.exit_code().await, Some(3), "{config}");
        let report = proxy.stderr_to_end().await;
        for told in told {
            assert!(report.contains(told), "{told}: {report}");
        }
    };
    let unknown = config("user = \"no-such-user\"");
    let told = ["there is no user `no-such-user`", "sluicegate.toml:6:8"];
    refused(&unknown, None, told).await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("sluicegate.toml");
    fs::write(&file, &unknown).unwrap();
    let checked = tokio::process::Command::new(binary())
        .args(["check", "--config"])
        .arg(&file)
        .output();
    let checked = soon("the check", checked).await.unwrap();
    assert_eq!(checked.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&checked.stderr).contains(told[0]));

    let Some(nobody) = can_give_up_root() else {
        return;
    };
    let unknown = config(&format!("user = \"{USER}\"\ngroup = \"no-such-group\""));
    let told = ["there is no group `no-such-group`", "sluicegate.toml:7:9"];
    refused(&unknown, None, told).await;
    if can_be_run_by(nobody).await {
        let other = config("user = \"root\"");
        let told = ["only root can become another user", "sluicegate.toml:6:8"];
        refused(&other, Some(nobody), told).await;
    }
}

#[tokio::test]
async fn root_without_a_user_is_told_and_who_is_one_already_is_served() {
    let config = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    let Some((user, own)) = can_give_up_root() else {
        return;
    };
    let proxy = Proxy::start(config).await;
    let told = "serving as root; `[runtime] user` names whom to become instead";
    proxy
        .log_line("the warning", |line| line.contains(told))
        .await;
    if can_be_run_by((user, own)).await {
        let config = format!("{config}[runtime]\nuser = \"{USER}\"\ngroup = \"{GROUP}\"\n");
        let proxy = Proxy::start_with(owned_by(user, own), &config, |command| {
            command.uid(user).gid(own);
        })
        .await;
        assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 200);
        assert!(!proxy.stderr_text().contains("serving as root"));
    }
}

#[tokio::test]
async fn without_anything_to_write_to_it_serves_and_says_what_that_costs() {
    let dir = TempDir::new().unwrap();
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [plugin.edit]\nwasm = \"{}\"\nconfig = {{ response = {{ set = {{ x-edited = \"yes\" }} }} }}\n\
         [[route]]\nrespond = {{}}\nplugins = [\"edit\"]\n",
        wasm("sluicegate-headers").display()
    );
    // A file system that cannot be written to, as root sees it too.
    let mut proxy = Proxy::start_with(dir, &config, |command| {
        command
            .env("XDG_CACHE_HOME", "/proc/cache")
            .env("HOME", "/proc")
            .env("TMPDIR", "/proc")
            .stdin(Stdio::from(File::open("/dev/null").unwrap()));
    })
    .await;
    let told = "compiled plugins are not kept, each start compiles them anew";
    let line = proxy
        .log_line("the warning", |line| line.contains(told))
        .await;
    assert!(line.contains("/proc/cache/sluicegate/plugins"), "{line}");
    let (head, _) = client::get(proxy.addr(0), "/").await;
    assert_eq!(head.get("x-edited"), Some("yes"));
    assert!(proxy.reload().await);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn the_service_manager_hears_how_it_stands() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let heard = async || {
        let mut room = [0; 256];
        let message = soon("a word", manager.recv(&mut room)).await.unwrap();
        String::from_utf8(room[..message].to_vec()).unwrap()
    };
    let config = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    let mut proxy = Proxy::start_with(dir, config, |command| {
        command.env("NOTIFY_SOCKET", path);
    })
    .await;
    assert_eq!(heard().await, "READY=1\nSTATUS=serving");
    for (config, applied, status) in [
        (config, true, "serving"),
        (
            "[[listener]]\n",
            false,
            "serving, but the last reload was rejected",
        ),
    ] {
        proxy.rewrite_config(config);
        assert_eq!(proxy.reload().await, applied);
        let reloading = heard().await;
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(heard().await, format!("READY=1\nSTATUS={status}"));
    }
    proxy.signal(libc::SIGTERM);
    assert_eq!(heard().await, "STOPPING=1\nSTATUS=draining");
    assert_eq!(proxy.exit_code().await, Some(0));
}

/// The unit of the examples starts what it says, and asks for nothing that this proxy does not have.
#[test]
fn the_systemd_unit_is_sound() {
    let unit = sluicegate_tests::proxy::source_root().join("examples/systemd/sluicegate.service");
    let dir = TempDir::new().unwrap();
    let text = fs::read_to_string(&unit).unwrap();
    // Compiled code is written and then run; this would forbid it.
    assert!(!text.contains("MemoryDenyWriteExecute=yes"));
    let here = dir.path().join("sluicegate.service");
    fs::write(
        &here,
        text.replace("/usr/bin/sluicegate", binary().to_str().unwrap()),
    )
    .unwrap();
    let Ok(verified) = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&here)
        .output()
    else {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.is_empty(), "{said}");
}

/// The ids of [`USER`] and [`GROUP`]; `None` if this is not root's process.
fn can_give_up_root() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("skipped: only root can give up root");
        return None;
    }
    let id = |file: &str, name: &str| -> u32 {
        let text = fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split(':').nth(2).unwrap().parse().unwrap()
    };
    Some((id("/etc/passwd", USER), id("/etc/group", GROUP)))
}

/// Whether this user reaches the binary, which stands in somebody's working tree.
async fn can_be_run_by((user, group): (u32, u32)) -> bool {
    let mut command = tokio::process::Command::new(binary());
    let ran = command.arg("--version").uid(user).gid(group).output().await;
    let can = ran.is_ok_and(|ran| ran.status.success());
    if !can {
        eprintln!("skipped: {USER} cannot run what is under test");
    }
    can
}

fn owned_by(user: u32, group: u32) -> TempDir {
    let dir = TempDir::new().unwrap();
    chown(dir.path(), Some(user), Some(group)).unwrap();
    dir
}
