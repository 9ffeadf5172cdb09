//! How our own ends of a tunnel put a message into frames.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress};
use sluicegate_tests::websocket::frame::{self, Frame};

/// A message in one frame.
pub(crate) fn frame(text: bool, plain: &[u8], compressed: bool) -> Frame {
    let opcode = match text {
        true => frame::TEXT,
        false => frame::BINARY,
    };
    match compressed {
        true => Frame::new(opcode, deflate(plain)).with_rsv(frame::COMPRESSED),
        false => Frame::new(opcode, plain),
    }
}

/// Without what earlier messages said (RFC 7692 §7.2.1): a context for each of thousands of tunnels would be
/// gigabytes, and none has to be used.
fn deflate(plain: &[u8]) -> Vec<u8> {
    thread_local! {
        static LIBRARY: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    }
    LIBRARY.with_borrow_mut(|library| {
        library.reset();
        let mut payload = Vec::with_capacity(plain.len() + 64);
        loop {
            let taken = library.total_in() as usize;
            library
                .compress_vec(&plain[taken..], &mut payload, FlushCompress::Sync)
                .expect("bytes can be compressed");
            if library.total_in() as usize == plain.len() && payload.len() < payload.capacity() {
                break;
            }
            payload.reserve(plain.len() + 64);
        }
        let tail = payload.len() - 4;
        assert_eq!(payload[tail..], [0, 0, 0xff, 0xff]);
        payload.truncate(tail);
        payload
    })
}
