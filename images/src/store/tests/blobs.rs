//! Blobs and downloads.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

#[test]
fn what_is_put_is_there() {
    let (_temp, store) = store();
    let blob = store.put(b"text").unwrap();
    assert_eq!((blob.digest, blob.length), (Digest::of(b"text"), 4));
    assert_eq!(content(&store.blob(&blob.digest).unwrap().unwrap().file), b"text");
    assert_eq!(store.put(b"text").unwrap().digest, blob.digest);
    assert_eq!(store.put(b"").unwrap().length, 0);
    assert!(store.blob(&Digest::of(b"other")).unwrap().is_none());
    assert!(files(&store, "partial").is_empty());
}

#[test]
fn the_store_is_its_owners_alone() {
    let (_temp, store) = store();
    for directory in ["", "blobs", "blobs/sha256", "partial", "rootfs"] {
        let mode = store.root().join(directory).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{directory}");
    }
    let blob = store.put(b"text").unwrap();
    assert_eq!(blob.file.metadata().unwrap().permissions().mode() & 0o777, 0o400);
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let (_temp, store) = store();
    let mut first = partial(&store, b"hello world");
    first.write(b"hello ").unwrap();
    drop(first);
    let again = Store::open(store.root()).unwrap();
    let mut second = partial(&again, b"hello world");
    assert_eq!(second.position(), 6);
    second.write(b"world").unwrap();
    assert_eq!(content(&second.commit().unwrap().file), b"hello world");
    assert!(files(&store, "partial").is_empty());
}

#[test]
fn a_download_can_start_again() {
    let (_temp, store) = store();
    let mut download = partial(&store, b"right");
    download.write(b"wrong").unwrap();
    download.restart().unwrap();
    assert_eq!(download.position(), 0);
    download.write(b"right").unwrap();
    download.commit().unwrap();
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_kept() {
    let (_temp, store) = store();
    let mut download = partial(&store, b"right");
    download.write(b"wrong").unwrap();
    assert!(matches!(download.commit(), Err(StoreError::Digest { actual, .. }) if actual == Digest::of(b"wrong")));
    assert!(store.blob(&Digest::of(b"right")).unwrap().is_none());
    assert!(files(&store, "partial").is_empty() && files(&store, "blobs/sha256").is_empty());
}

#[test]
fn a_wrong_length_is_refused() {
    let (_temp, store) = store();
    let mut download = partial(&store, b"right");
    assert!(matches!(download.write(b"right!"), Err(StoreError::Length { expected: 5, actual: 6, .. })));
    download.write(b"rig").unwrap();
    assert!(matches!(download.commit(), Err(StoreError::Length { expected: 5, actual: 3, .. })));
    assert_eq!(partial(&store, b"right").position(), 3, "what was there is kept");
}

#[test]
fn a_partial_that_is_too_long_starts_again() {
    let (_temp, store) = store();
    std::fs::write(store.partials().join(Digest::of(b"right").hex()), "too long").unwrap();
    assert_eq!(partial(&store, b"right").position(), 0);
}

#[test]
fn threads_download_a_blob_once() {
    let (_temp, store) = store();
    let bytes = vec![7; 3 << 20];
    let (made, waited) = (AtomicU32::new(0), AtomicU32::new(0));
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (store, bytes, made, waited, barrier) = (&store, &bytes, &made, &waited, &barrier);
            scope.spawn(move || {
                // Half of them with a store of their own.
                let store = if number % 2 == 0 { store.clone() } else { Store::open(store.root()).unwrap() };
                barrier.wait();
                let mut calls = 0;
                let download = store.download(&Digest::of(bytes), bytes.len() as u64, &mut || calls += 1).unwrap();
                let blob = match download {
                    Download::Present(blob) => blob,
                    Download::Partial(mut partial) => {
                        made.fetch_add(1, Ordering::Relaxed);
                        bytes.chunks(1 << 16).for_each(|chunk| partial.write(chunk).unwrap());
                        partial.commit().unwrap()
                    }
                };
                assert!(calls <= 1);
                waited.fetch_add(calls, Ordering::Relaxed);
                assert_eq!(blob.length, bytes.len() as u64);
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
    assert_valid(&store);
}

#[test]
fn a_waiter_takes_over_from_one_who_gave_up() {
    let (_temp, store) = store();
    let mut first = partial(&store, b"hello world");
    first.write(b"hello ").unwrap();
    let other = store.clone();
    let (send, waiting) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        match other.download(&Digest::of(b"hello world"), 11, &mut || send.send(()).unwrap()).unwrap() {
            Download::Partial(partial) => partial.position(),
            Download::Present(_) => panic!("nobody completed it"),
        }
    });
    waiting.recv().unwrap();
    drop(first);
    assert_eq!(thread.join().unwrap(), 6);
    assert!(waiting.recv().is_err(), "told once");
}
