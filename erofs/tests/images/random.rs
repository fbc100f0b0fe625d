//! Random trees.

use erofs::{Attributes, Special, Time};
use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Make, Part, Step, assert_same, build};
use super::{kernel, reader, tools};

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'b'), Just(b'.'), Just(b'-'), 1..=u8::MAX];
    let any = prop_oneof![8 => vec(byte, 1..4), 1 => vec(Just(b'n'), 200..=255)];
    any.prop_map(|name| name.into_iter().map(|byte| if byte == b'/' { b'_' } else { byte }).collect())
}

fn xattr() -> impl Strategy<Value = (Box<[u8]>, Box<[u8]>)> {
    let prefix = prop_oneof![Just("user."), Just("trusted."), Just("security.")];
    let name = (prefix, "[a-c]{1,3}").prop_map(|(prefix, suffix)| format!("{prefix}{suffix}").into_bytes().into());
    let value = prop_oneof![
        3 => Just(vec![b'v'; 20]),
        3 => vec(any::<u8>(), 0..8),
        1 => (1000..6000_usize).prop_map(|length| vec![b'l'; length]),
    ];
    (name, value.prop_map(Vec::into_boxed_slice))
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let mtime = (-(1_i64 << 40)..1 << 40, 0..1_000_000_000_u32);
    let xattrs = prop_oneof![2 => Just(Vec::new()), 1 => vec(xattr(), 0..5)];
    (0..=0o7777_u16, any::<u32>(), any::<u32>(), mtime, xattrs).prop_map(|(mode, uid, gid, mtime, mut xattrs)| {
        xattrs.sort();
        xattrs.dedup_by(|a, b| a.0 == b.0);
        // Linux has no user or group of this number.
        let (uid, gid) = (uid.min(u32::MAX - 1), gid.min(u32::MAX - 1));
        Attributes { mode, uid, gid, mtime: Time { seconds: mtime.0, nanoseconds: mtime.1 }, xattrs }
    })
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let length = prop_oneof![Just(4096_u16), Just(8192), 0..100_u16, 0..10_000_u16];
    let bytes = (0..3_u8, length.clone()).prop_map(|(byte, length)| Part::Bytes { byte, length });
    vec(prop_oneof![bytes, length.prop_map(Part::Skip)], 0..5)
}

fn make() -> impl Strategy<Value = Make> {
    let (major, minor) = (0..4096_u32, 0..1_u32 << 20);
    let special = prop_oneof![
        (major.clone(), minor.clone()).prop_map(|(major, minor)| Special::CharDevice { major, minor }),
        (major, minor).prop_map(|(major, minor)| Special::BlockDevice { major, minor }),
        Just(Special::Fifo),
        Just(Special::Socket),
    ];
    let target = prop_oneof![4 => 1..100_usize, 1 => 1..=4095_usize];
    prop_oneof![
        4 => Just(Make::Directory),
        4 => parts().prop_map(Make::File),
        2 => target.prop_map(|length| Make::Symlink(vec![b't'; length])),
        1 => special.prop_map(Make::Special),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let choice = any::<usize>;
    prop_oneof![
        20 => (choice(), name(), make(), attributes())
            .prop_map(|(directory, name, what, attributes)| Step::Make { directory, name, what, attributes }),
        1 => (choice(), 0..200_u16, 0..=255_u8)
            .prop_map(|(directory, count, length)| Step::Fill { directory, count, length }),
        4 => (choice(), name(), choice())
            .prop_map(|(directory, name, target)| Step::Link { directory, name, target }),
        4 => (choice(), choice()).prop_map(|(directory, entry)| Step::Unlink { directory, entry }),
        2 => (choice(), attributes()).prop_map(|(target, attributes)| Step::Change { target, attributes }),
        1 => parts().prop_map(|content| Step::Abandon { content }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_tree_reads_back(steps in vec(step(), 0..60)) {
        let (image, tree, summary) = build(&steps);
        assert_same(&reader::read(&image), &tree, "erofs-rs");
        prop_assert_eq!(image.len() as u64, summary.size);
    }

    #[test]
    fn the_same_steps_give_the_same_bytes(steps in vec(step(), 0..40)) {
        prop_assert!(build(&steps).0 == build(&steps).0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fsck_finds_a_random_tree_sound(steps in vec(step(), 0..60)) {
        let (image, _, summary) = build(&steps);
        tools::check(&image, &summary);
    }

    #[test]
    fn the_kernel_sees_a_random_tree(steps in vec(step(), 0..60)) {
        let (image, tree, _) = build(&steps);
        if let Some(mount) = kernel::mount(&image) {
            assert_same(&mount.read(), &kernel::visible(&tree), "the kernel");
        }
    }
}
