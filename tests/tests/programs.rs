//! Programs as Debian ships them, each in an image of its own: they run and do their job. And a whole image of them looks
//! inside the guest as `umoci unpack` leaves it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use e2e::image::digest;
use e2e::place::{fixture, fixtures};
use e2e::task::taskrun;
use serde_json::{Value, json};

/// What the command prints in a task of this image.
fn run(image: &str, command: &[&str]) -> String {
    let image = fixture(&format!("{image}:latest"));
    taskrun(["run", &image].iter().chain(command)).output().expect_code(0).text()
}

#[test]
fn python_computes_and_writes_a_file() -> Result<()> {
    let script = r#"
import json, sqlite3, ssl
db = sqlite3.connect("/root/numbers.db")
db.execute("create table numbers (value)")
db.executemany("insert into numbers values (?)", [(value,) for value in range(1000)])
db.commit()
found = {
    "sum": sqlite3.connect("/root/numbers.db").execute("select sum(value) from numbers").fetchone()[0],
    "power": str(3**100),
    "verifies": ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED,
}
with open("/root/found.json", "w") as file:
    json.dump(found, file)
print(open("/root/found.json").read())
"#;
    let found: Value = serde_json::from_str(&run("python", &["python3", "-c", script]))?;
    let power = "515377520732011331036461129765621272702107522001";
    assert_eq!(found, json!({"sum": 499_500, "power": power, "verifies": true}));
    Ok(())
}

#[test]
fn nginx_serves_a_page_over_loopback_and_logs_to_its_output() {
    let script = "nginx -g 'daemon off;' & \
        until wget -qO /tmp/page http://127.0.0.1/ 2>/dev/null; do kill -0 $! || exit 1; sleep 0.1; done; \
        kill -QUIT $!; wait $!; echo \"nginx ended with $?\"; cat /tmp/page";
    let text = run("nginx", &["sh", "-c", script]);
    for part in ["<h1>Welcome to nginx!</h1>", "\"GET / HTTP/1.1\" 200", "nginx ended with 0"] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn redis_keeps_values_and_saves_them_to_its_volume_as_its_own_user() {
    let script = "redis-server >/tmp/log & \
        until [ \"$(redis-cli ping 2>/dev/null)\" = PONG ]; do kill -0 $! || exit 1; sleep 0.1; done; \
        redis-cli set greeting hello; redis-cli get greeting; redis-cli save; redis-cli shutdown nosave; wait $!; \
        echo \"redis ended with $?\"; stat -c '%U %n' /data/*; head -c 5 dump.rdb";
    let text = run("redis", &["sh", "-c", script]);
    assert_eq!(text, "OK\nhello\nOK\nredis ended with 0\nredis /data/dump.rdb\nREDIS");
}

#[test]
fn perl_matches_and_loads_modules() {
    let script = r#"
use strict; use warnings; use Digest::SHA qw(sha256_hex); use JSON::PP; use List::Util qw(sum);
my ($year, $month) = "on 2024-02-29" =~ /(\d{4})-(\d\d)/ or die;
print JSON::PP->new->canonical->encode({ date => "$month/$year", sum => sum(1 .. 100) }), "\n", sha256_hex("taskrun");
"#;
    let hash = digest(b"taskrun").replace("sha256:", "");
    assert_eq!(run("perl", &["perl", "-e", script]), format!("{{\"date\":\"02/2024\",\"sum\":5050}}\n{hash}"));
}

#[test]
fn a_debian_installation_is_whole() -> Result<()> {
    // `dpkg --verify` is silent when every file has the content that its package came with.
    let script = "set -e; dpkg --verify; dpkg -l | wc -l; apt-get --version | sed -n 1p; \
        [[ $(</etc/debian_version) == 12.* ]]; printf '%(%Y)T\\n' 0";
    let text = run("minbase", &["bash", "-c", script]);
    let [packages, apt, year] = *text.lines().collect::<Vec<_>>() else { panic!("not three lines: {text}") };
    assert!(packages.parse::<u32>()? > 80, "{packages} lines of packages");
    assert!(apt.starts_with("apt 2."), "{apt}");
    assert_eq!(year, "1970");
    Ok(())
}

/// What the runtime puts into every task: it says nothing about the image.
const GIVEN: [&str; 4] = ["/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The lines of a list of files, without what the runtime gives.
fn entries(list: &str) -> BTreeSet<&str> {
    list.lines().filter(|line| line.split(' ').next().is_none_or(|path| !GIVEN.contains(&path))).collect()
}

#[test]
fn pythons_image_has_every_entry_that_umoci_unpacks() -> Result<()> {
    let expected = fs::read_to_string(fixtures().join("python.tree")).context("Can't read the expected tree")?;
    let found = run("python-probe", &["/usr/bin/probe", "tree", "/"]);
    let (found, expected) = (entries(&found), entries(&expected));
    let missing: Vec<_> = expected.difference(&found).collect();
    let extra: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing or different:\n{missing:#?}\nunexpected:\n{extra:#?}");
    assert!(expected.len() > 800, "the list is too short to prove anything");
    Ok(())
}
