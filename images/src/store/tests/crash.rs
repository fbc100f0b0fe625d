//! Many processes, and their deaths at any moment. The processes are this test binary, told by a variable what to do.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

/// What a child is to do, and in which store.
const ROLE: &str = "IMAGES_TEST_ROLE";
const ROOT: &str = "IMAGES_TEST_ROOT";

const BIG: usize = 6 << 20;

/// Does nothing in a usual run of the tests.
#[test]
fn child() {
    let (Ok(role), Ok(root)) = (std::env::var(ROLE), std::env::var(ROOT)) else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    println!("ready");
    match role.as_str() {
        "download" => download(&store),
        role => churn(&store, role.parse().unwrap()),
    }
}

fn start(store: &Store, role: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store::tests::crash::child", "--nocapture", "--test-threads=1"]);
    spawn(command.env(ROLE, role).env(ROOT, store.root()).stdout(Stdio::piped()))
}

/// Downloads one big blob, and says whether that was its work.
fn download(store: &Store) {
    let bytes = vec![42; BIG];
    match store.download(&Digest::of(&bytes), BIG as u64, &mut || println!("waiting")).unwrap() {
        Download::Present(_) => println!("present"),
        Download::Partial(mut partial) => {
            bytes.chunks(1 << 16).for_each(|chunk| partial.write(chunk).unwrap());
            partial.commit().unwrap();
            println!("downloaded");
        }
    }
}

#[test]
fn processes_download_a_blob_once() {
    let (_temp, store) = store_of_many();
    let children: Vec<Child> = (0..6).map(|_| start(&store, "download")).collect();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    let texts: Vec<String> = outputs.map(|output| String::from_utf8(output.stdout).unwrap()).collect();
    let count = |word: &str| texts.iter().filter(|text| text.lines().any(|line| line == word)).count();
    assert_eq!((count("downloaded"), count("present")), (1, 5), "{texts:?}");
    assert_valid(&store);
}

/// Does everything that a store can do, again and again, until it is killed.
fn churn(store: &Store, seed: u32) -> ! {
    let mut random = seed;
    let mut next = |bound: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % bound
    };
    loop {
        let image = next(4);
        let (name, top) = (format!("app{image}"), format!("{image}").repeat(200_000));
        match next(8) {
            0..=2 => drop(slow_pull(store, &name, &["base", &top])),
            3..=4 => {
                let stored = slow_pull(store, &name, &["base", &top]);
                if let Ok(opened) = store.open_image(&stored) {
                    let rootfs =
                        build(store, &RootfsKey::of(&opened.layers), &vec![7; 3 << 20], Some(&stored.manifest));
                    assert_eq!(rootfs.length, 4 << 20);
                }
            }
            5 => harmless(store.remove(&name, true)),
            6 => harmless(store.prune(&PruneOptions { all: false, keep_storage: Some(1 << 20) })),
            _ => harmless(store.prune(&PruneOptions::default())),
        }
    }
}

/// As [`pull`], with layers that come piece by piece.
fn slow_pull(store: &Store, text: &str, layers: &[&str]) -> StoredImage {
    let blobs = documents(layers).iter().map(|bytes| get(store, bytes)).collect::<Vec<Blob>>();
    let (name, manifest) = (name(text), blobs[0].digest);
    store.tag(&NewImage { name: &name, manifest, index: None, platform: Platform::host() }).unwrap()
}

fn get(store: &Store, bytes: &[u8]) -> Blob {
    match store.download(&Digest::of(bytes), bytes.len() as u64, &mut || {}).unwrap() {
        Download::Present(blob) => blob,
        Download::Partial(mut partial) => {
            let rest = &bytes[usize::try_from(partial.position()).unwrap()..];
            rest.chunks(1 << 12).for_each(|chunk| partial.write(chunk).unwrap());
            partial.commit().unwrap()
        }
    }
}

fn harmless(result: Result<Removed, StoreError>) {
    let harmless = matches!(result, Ok(_) | Err(StoreError::InUse { .. } | StoreError::NoSuchImage(_)));
    assert!(harmless, "{result:?}");
}

/// Kills one of two working processes at 24 moments, which differ in every run.
#[test]
fn killed_at_any_moment_it_stays_valid() {
    let (_temp, store) = store_of_many();
    let mut survivor = working(&store, 1);
    for round in 0..24_u32 {
        let mut victim = working(&store, round + 2);
        let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        std::thread::sleep(Duration::from_micros(u64::from(moment % 60_000)));
        stop(&mut victim);
        if round % 4 == 3 {
            stop(&mut survivor);
            assert_valid(&store);
            survivor = working(&store, round + 100);
        }
    }
    stop(&mut survivor);
    assert_valid(&store);
    let _calm = calm();
    // Nothing is locked by the dead, and everything can be done again.
    let stored = pull(&store, "app", &["base", "again"]).unwrap();
    drop(build(&store, &key_of(&store, &stored), b"x", Some(&stored.manifest)));
    let pruned = store.prune(&PruneOptions { all: true, keep_storage: None }).unwrap();
    assert!(pruned.in_use.is_empty(), "{:?}", pruned.in_use);
    let report = store.verify(false).unwrap();
    assert_eq!((report.blobs, report.rootfs, report.leftovers), (0, 0, Vec::new()));
    assert!(files(&store, "partial").is_empty() && files(&store, "rootfs").is_empty());
}

/// A process that churns, and has begun to.
fn working(store: &Store, seed: u32) -> Child {
    let mut child = start(store, &seed.to_string());
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("ready")), "the child did not start");
    child
}

fn stop(child: &mut Child) {
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(ended.is_none(), "it ended by itself: {ended:?} {output}");
}
