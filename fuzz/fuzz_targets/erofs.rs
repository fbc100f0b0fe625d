//! Any steps through the writer of EROFS images: what it takes, the reader sees again.
#![no_main]

#[path = "../../erofs/tests/images/model.rs"]
mod model;
#[path = "../../erofs/tests/images/reader.rs"]
mod reader;

use erofs::{Attributes, Special, Time};
use libfuzzer_sys::fuzz_target;
use model::{Make, Part, Step};

/// What to do, numbers, and bytes for names and contents.
type Input = (u8, u32, u32, Vec<u8>, Vec<u8>);

fuzz_target!(|inputs: Vec<Input>| {
    let steps: Vec<Step> = inputs.into_iter().map(step).collect();
    let (image, tree, summary) = model::build(&steps);
    assert_eq!(summary.size, image.len() as u64);
    model::assert_same(&reader::read(&image), &tree, "erofs-rs");
});

fn step((what, first, second, name, bytes): Input) -> Step {
    let (directory, target) = (first as usize, second as usize);
    match what % 12 {
        8 => Step::Link { directory, name, target },
        9 => Step::Unlink { directory, entry: target },
        10 => Step::Change { target, attributes: attributes(first, name, bytes) },
        11 if what > 200 => Step::Abandon { content: parts(&bytes) },
        11 => Step::Fill { directory, count: (second % 300) as u16, length: (second >> 16) as u8 },
        what => {
            let what = match what {
                0 | 1 => Make::Directory,
                2 | 3 => Make::File(parts(&bytes)),
                4 => Make::Symlink(bytes.clone()),
                5 => Make::Symlink(vec![b't'; (second % 5000) as usize]),
                6 => Make::Special(Special::CharDevice { major: second >> 19, minor: second & 0x1f_ffff }),
                _ => Make::Special(Special::Fifo),
            };
            Step::Make { directory, name, what, attributes: attributes(second, b"a".to_vec(), bytes) }
        }
    }
}

fn parts(bytes: &[u8]) -> Vec<Part> {
    let part = |&[byte, low, high]: &[u8; 3]| {
        let length = u16::from_le_bytes([low, high]);
        if byte % 4 == 3 { Part::Skip(length) } else { Part::Bytes { byte: byte % 4, length } }
    };
    bytes.as_chunks().0.iter().take(8).map(part).collect()
}

/// With up to three extended attributes.
fn attributes(seed: u32, name: Vec<u8>, value: Vec<u8>) -> Attributes {
    let prefixes = ["user.", "trusted.", "security.", "system.posix_acl_access", "system."];
    let xattr = |index: u32| {
        let prefix = prefixes[(seed >> (index * 3)) as usize % prefixes.len()];
        let suffix = if prefix.ends_with('.') { &name[..] } else { &[] };
        ([prefix.as_bytes(), suffix].concat().into(), value.repeat(seed as usize % 50).into())
    };
    Attributes {
        mode: (seed % 0o10010) as u16,
        uid: seed,
        gid: !seed,
        mtime: Time { seconds: i64::from(seed) - (1 << 31), nanoseconds: seed % 1_000_000_010 },
        xattrs: (0..seed % 4).map(xattr).collect(),
    }
}
