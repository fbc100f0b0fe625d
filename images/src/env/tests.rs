//! Docker's rules for variables, one by one.

use proptest::prelude::*;

use super::*;

/// A caller that has `HAVE` and an empty `EMPTY`.
fn caller(name: &OsStr) -> Option<OsString> {
    match name.as_bytes() {
        b"HAVE" => Some("mine".into()),
        b"EMPTY" => Some("".into()),
        _ => None,
    }
}

fn set(name: &str, value: &str) -> EnvChange {
    EnvChange::Set { name: name.into(), value: value.into() }
}

fn unset(name: &str) -> EnvChange {
    EnvChange::Unset { name: name.into() }
}

fn option(argument: &[u8]) -> Result<EnvChange, EnvError> {
    parse_option(OsStr::from_bytes(argument), caller)
}

fn merged(image: &[&str], changes: &[EnvChange]) -> String {
    let config = ImageConfig { env: image.iter().map(|&entry| entry.into()).collect(), ..ImageConfig::default() };
    let environment = environment(&config, "host", false, changes);
    environment.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn options_set_take_over_or_remove() {
    assert_eq!(option(b"A=b=c"), Ok(set("A", "b=c")));
    assert_eq!(option(b"A="), Ok(set("A", "")));
    assert_eq!(option(b"HAVE"), Ok(set("HAVE", "mine")));
    assert_eq!(option(b"EMPTY"), Ok(set("EMPTY", "")));
    assert_eq!(option(b"MISSING"), Ok(unset("MISSING")));
    assert_eq!(option(b"with blank=1"), Ok(set("with blank", "1")));
    assert_eq!(option(b"\xff=\xfe"), Ok(EnvChange::Set { name: vec![0xff], value: vec![0xfe] }));
    assert_eq!(option(b"=x"), Err(EnvError::NoName("=x".into())));
    assert_eq!(option(b""), Err(EnvError::NoName(String::new())));
    assert!(matches!(option(b"A=\0"), Err(EnvError::Nul(_))));
}

#[test]
fn a_file_has_one_variable_on_a_line() {
    let file = b"\xef\xbb\xbfFIRST=1\n# comment\n   # indented comment\n\n \t INDENTED=2\r\nQUOTED=\"as it is\" \n\
        HASH=a#b\nSPACED= x \nEQUALS==\nHAVE\nMISSING\nEMPTY\nLAST=no newline";
    let expected = [
        set("FIRST", "1"),
        set("INDENTED", "2"),
        set("QUOTED", "\"as it is\" "),
        set("HASH", "a#b"),
        set("SPACED", " x "),
        set("EQUALS", "="),
        set("HAVE", "mine"),
        set("EMPTY", ""),
        set("LAST", "no newline"),
    ];
    assert_eq!(parse_file(file, caller), Ok(expected.to_vec()));
    assert_eq!(parse_file(b"", caller), Ok(Vec::new()));
}

#[test]
fn a_wrong_line_is_named() {
    for (file, line) in [(&b"A=1\n=x"[..], 2), (b"A B=1", 1), (b"\n\nA\tB", 3), (b"A=1\nexport A=1\n", 2), (b"A=\0", 1)]
    {
        assert_eq!(parse_file(file, caller).unwrap_err().line, line, "{}", String::from_utf8_lossy(file));
    }
    let error = parse_file(b"export A=1", caller).unwrap_err();
    assert_eq!(error.to_string(), "Line 1 can't be used");
    assert_eq!(error.source.to_string(), "The variable's name \"export A\" has a blank in it");
}

#[test]
fn defaults_give_way_to_the_image_and_the_image_to_the_caller() {
    let path = format!("PATH={DEFAULT_PATH}");
    assert_eq!(merged(&[], &[]), format!("{path} HOSTNAME=host"));
    assert_eq!(merged(&["PATH=/bin", "A=1"], &[]), "PATH=/bin HOSTNAME=host A=1");
    assert_eq!(merged(&["A=1", "B=2"], &[set("B", "3"), set("C", "4")]), format!("{path} HOSTNAME=host B=3 C=4 A=1"));
    assert_eq!(merged(&["A=1"], &[set("A", "2"), set("A", "3")]), format!("{path} HOSTNAME=host A=3"));
    assert_eq!(merged(&["HOSTNAME=image"], &[set("PATH", "")]), "PATH= HOSTNAME=image");
    assert_eq!(merged(&["A=1", "A=2"], &[]), format!("{path} HOSTNAME=host A=2"));
}

#[test]
fn a_removed_variable_is_gone_wherever_it_came_from() {
    assert_eq!(merged(&["PATH=/bin", "A=1"], &[unset("A"), unset("PATH")]), "HOSTNAME=host");
    assert_eq!(merged(&["A=1"], &[unset("A"), set("A", "2"), unset("HOSTNAME"), unset("PATH")]), "A=2");
    assert_eq!(merged(&[], &[set("A", "2"), unset("A"), unset("HOSTNAME"), unset("PATH")]), "");
}

#[test]
fn entries_of_an_image_that_are_none_are_left_out() {
    assert_eq!(merged(&["NOVALUE", "=x", "", "PATH=/"], &[unset("HOSTNAME")]), "PATH=/");
}

#[test]
fn a_terminal_has_a_kind() {
    let environment = |changes: &[EnvChange]| environment(&ImageConfig::default(), "h", true, changes);
    assert!(environment(&[]).contains(&b"TERM=xterm".to_vec()));
    assert!(environment(&[set("TERM", "dumb")]).contains(&b"TERM=dumb".to_vec()));
}

#[test]
fn a_very_long_environment_takes_no_quadratic_time() {
    let env = (0..30_000).map(|n| format!("{n}=")).collect();
    let config = ImageConfig { env, ..ImageConfig::default() };
    assert_eq!(environment(&config, "h", false, &[]).len(), 30_002);
}

proptest! {
    #[test]
    fn names_are_unique_and_never_empty(image in prop::collection::vec("[AB=]{0,4}", 0..8), changes in prop::collection::vec("[AB]{1,2}(=[AB=]{0,3})?", 0..8)) {
        let changes: Vec<EnvChange> = changes.iter().map(|text| option(text.as_bytes()).unwrap()).collect();
        let config = ImageConfig { env: image, ..ImageConfig::default() };
        let environment = environment(&config, "h", false, &changes);
        let mut names: Vec<&[u8]> = environment.iter().map(|entry| split(entry).unwrap().0).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        prop_assert_eq!(names.len(), count);
    }

    #[test]
    fn hostile_files_never_panic(contents in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'='), Just(b' '), any::<u8>()], 0..200)) {
        if let Ok(changes) = parse_file(&contents, caller) {
            for change in changes {
                let EnvChange::Set { name, .. } = change else { panic!("files don't remove") };
                prop_assert!(!name.is_empty() && !name.contains(&b'=') && !name.contains(&0));
            }
        }
    }
}
