use std::fs::File;

use super::*;

/// A description that is right with 8 descriptors.
fn config() -> VmConfig {
    let extent = |file, offset| ExtentConfig { file: FdIndex(file), offset, length: 1 };
    VmConfig {
        vcpus: 1,
        cpu_units: None,
        memory_mib: 64,
        kvm: FdIndex(0),
        start: Start::Boot(Boot {
            memory: FdIndex(1),
            kernel: FdIndex(2),
            initramfs: FdIndex(3),
            extra_command_line: String::new(),
            save: None,
        }),
        console: Some(FdIndex(4)),
        blocks: vec![BlockConfig { id: "layers".into(), read_only: true, extents: vec![extent(6, 0), extent(6, 512)] }],
        pmems: vec![PmemConfig { id: "image".into(), file: FdIndex(7), length: 4 << 20 }],
        channels: vec![ChannelConfig { port: 1024, stream: FdIndex(5) }],
        written: Vec::new(),
    }
}

/// What the machine boots from.
fn boot(config: &mut VmConfig) -> &mut Boot {
    match &mut config.start {
        Start::Boot(boot) => boot,
        Start::Restore(_) => panic!("it is restored"),
    }
}

/// What [`VmConfig::validate`] says to [`config`] after `change`.
fn refusal(change: impl FnOnce(&mut VmConfig)) -> Option<ConfigError> {
    let mut config = config();
    change(&mut config);
    config.validate(8).err()
}

#[test]
fn a_right_description_is_accepted() {
    assert_eq!(refusal(|_| ()), None);
}

#[test]
fn sizes_out_of_range_are_refused() {
    assert_eq!(refusal(|config| config.vcpus = 0), Some(ConfigError::Vcpus(0)));
    assert_eq!(refusal(|config| config.vcpus = 17), Some(ConfigError::Vcpus(17)));
    assert_eq!(refusal(|config| config.memory_mib = 63), Some(ConfigError::Memory(63)));
    assert_eq!(refusal(|config| config.memory_mib = u32::MAX), Some(ConfigError::Memory(u32::MAX)));
}

#[test]
fn a_description_that_lies_about_descriptors_is_refused() {
    assert_eq!(config().validate(7), Err(ConfigError::NoDescriptor { index: 7, count: 7 }));
    assert_eq!(config().validate(9), Err(ConfigError::DescriptorUnused(8)));
    assert_eq!(refusal(|config| boot(config).kernel = FdIndex(3)), Some(ConfigError::DescriptorTwice(3)));
    assert_eq!(refusal(|config| boot(config).kernel = FdIndex(6)), Some(ConfigError::DescriptorTwice(6)));
    let shared = |config: &mut VmConfig| config.pmems[0].file = FdIndex(6);
    assert_eq!(refusal(shared), Some(ConfigError::DescriptorTwice(6)));
    let far = ConfigError::NoDescriptor { index: usize::MAX, count: 8 };
    assert_eq!(refusal(|config| boot(config).memory = FdIndex(usize::MAX)), Some(far));
}

#[test]
fn block_devices_need_names_of_their_own_and_extents_that_fit() {
    for id in ["", "a space", "a-name-longer-than-20-", "\n"] {
        let error = ConfigError::BlockId(id.into());
        assert_eq!(refusal(|config| config.blocks[0].id = id.into()), Some(error));
    }
    let error = ConfigError::Extents("layers".into());
    assert_eq!(refusal(|config| config.blocks[0].extents[0].length = u64::MAX), Some(error));
    let error = ConfigError::Extents("layers".into());
    assert_eq!(refusal(|config| config.blocks[0].extents[0].offset = u64::MAX), Some(error));
    let twice = |config: &mut VmConfig| config.blocks = vec![config.blocks[0].clone(), config.blocks[0].clone()];
    assert_eq!(refusal(twice), Some(ConfigError::BlockId("layers".into())));
    let many = |config: &mut VmConfig| config.blocks = vec![config.blocks[0].clone(); 18];
    assert_eq!(refusal(many), Some(ConfigError::Devices(19)));
}

#[test]
fn persistent_memory_needs_a_name_and_whole_large_pages() {
    assert_eq!(refusal(|config| config.pmems[0].id.clear()), Some(ConfigError::PmemId(String::new())));
    let twice = |config: &mut VmConfig| config.pmems = vec![config.pmems[0].clone(), config.pmems[0].clone()];
    assert_eq!(refusal(twice), Some(ConfigError::PmemId("image".into())));
    for length in [0, 4096, (2 << 20) + 4096, u64::MAX] {
        let error = ConfigError::PmemLength { id: "image".into(), length };
        assert_eq!(refusal(|config| config.pmems[0].length = length), Some(error));
    }
    let many = |config: &mut VmConfig| config.pmems = vec![config.pmems[0].clone(); 5];
    assert_eq!(refusal(many), Some(ConfigError::Pmems(5)));
}

#[test]
fn a_port_has_one_stream() {
    let twice = |config: &mut VmConfig| config.channels.push(config.channels[0]);
    assert_eq!(refusal(twice), Some(ConfigError::Port(1024)));
}

#[test]
fn guest_memory_keeps_its_size() {
    let memory = File::from(create_guest_memory(64).unwrap());
    assert_eq!(memory.metadata().unwrap().len(), 64 << 20);
    assert!(memory.set_len(0).is_err());
    assert!(memory.set_len(65 << 20).is_err());
}

#[test]
fn extents_start_on_the_next_page() {
    assert_eq!(extent_layout([1, 4096, 4097, 0, 5]), Some((vec![0, 4096, 8192, 16384, 16384], 20480)));
    assert_eq!(extent_layout([]), Some((vec![], 0)));
}

#[test]
fn a_size_that_does_not_fit_is_refused() {
    assert_eq!(extent_layout([u64::MAX]), None);
    assert_eq!(extent_layout([1 << 62, 1 << 62]), None);
}

#[test]
fn a_machine_that_becomes_a_template_has_nothing_of_a_task() {
    let files = TemplateFiles { state: FdIndex(8), memory: FdIndex(9) };
    let mut template = config();
    boot(&mut template).save = Some(files);
    assert_eq!(template.validate(10), Err(ConfigError::SaveWithDevices));
    template.console = None;
    template.blocks.clear();
    assert_eq!(template.validate(10), Err(ConfigError::SaveWithDevices));
    template.pmems.clear();
    let files = TemplateFiles { state: FdIndex(4), memory: FdIndex(6) };
    boot(&mut template).save = Some(files);
    assert_eq!(template.validate(7), Ok(()));
    template.written = vec![Extent { start: 4096, length: 4096 }];
    assert_eq!(template.validate(7), Err(ConfigError::Written));
    template.written.clear();
    let files = TemplateFiles { state: FdIndex(4), memory: FdIndex(4) };
    boot(&mut template).save = Some(files);
    assert_eq!(template.validate(7), Err(ConfigError::DescriptorTwice(4)));
}

#[test]
fn a_machine_that_is_restored_has_room_for_a_few_devices_and_no_console() {
    let mut restored = config();
    restored.start = Start::Restore(TemplateFiles { state: FdIndex(1), memory: FdIndex(2) });
    assert_eq!(restored.validate(8), Err(ConfigError::RestoreWithConsole));
    restored.console = None;
    restored.channels[0].stream = FdIndex(3);
    restored.pmems[0].file = FdIndex(4);
    restored.blocks[0].extents = vec![];
    assert_eq!(restored.validate(5), Ok(()));
    restored.written = vec![Extent { start: 4096, length: 4096 }];
    assert_eq!(restored.validate(5), Ok(()));
    restored.written[0].length = 64 << 20;
    assert_eq!(restored.validate(5), Err(ConfigError::Written));
    restored.written.clear();
    let block = |index| BlockConfig { id: format!("b{index}"), read_only: true, extents: vec![] };
    restored.blocks = (0..MAX_TEMPLATE_DEVICES).map(block).collect();
    assert_eq!(restored.validate(5), Err(ConfigError::RestoreDevices(MAX_TEMPLATE_DEVICES + 1)));
    restored.blocks.pop();
    assert_eq!(restored.validate(5), Ok(()));
}

#[test]
fn the_window_for_an_image_grows_with_the_memory_up_to_a_bound() {
    assert_eq!([64, 512, 2048, 4096].map(|mib| image_window(mib) >> 20), [128, 1024, 4096, 4096]);
    assert!((MIN_MEMORY_MIB..5000).all(|mib| image_window(mib).is_multiple_of(PMEM_ALIGNMENT)));
}
