//! Control messages, as a hostile guest would send them, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::frame::{Decoder, encode};
use protocol::message::{AgentMessage, HostMessage};

fuzz_target!(|chunks: Vec<Vec<u8>>| {
    let (mut from_agent, mut from_host) = (Decoder::default(), Decoder::default());
    for chunk in chunks {
        from_agent.extend(&chunk);
        while let Ok(Some(message)) = from_agent.next::<AgentMessage>() {
            assert!(encode(&message).is_ok());
        }
        from_host.extend(&chunk);
        while let Ok(Some(message)) = from_host.next::<HostMessage>() {
            assert!(encode(&message).is_ok());
        }
    }
});
