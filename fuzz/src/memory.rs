//! A bound on live memory while an input is handled: what a peer or a damaged file claims must not reserve anything.
//!
//! libFuzzer's own malloc limit needs a sanitizer; this works without one and counts all live bytes, not one block.
//! It covers what Rust code allocates; memory of C code (Zstandard) is under libFuzzer's `-rss_limit_mb`.

#![allow(unsafe_code, reason = "an allocator has to be one; it passes every call on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

fn charge(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes);
    if live > LIMIT.load(Relaxed) {
        LIMIT.store(usize::MAX, Relaxed);
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = bytes;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let mut err = std::io::stderr();
        let _ = err.write_all(b"memory limit of the input exceeded by an allocation of ");
        let _ = err.write_all(&digits[at..]);
        let _ = err.write_all(b" bytes\n");
        std::process::abort();
    }
}

// SAFETY: every call goes to the system allocator with the arguments it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        charge(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `handle`; the process aborts when more than `bytes` are live at once on top of what was live before.
pub fn limited<R>(bytes: usize, handle: impl FnOnce() -> R) -> R {
    let before = LIMIT.swap(LIVE.load(Relaxed).saturating_add(bytes), Relaxed);
    let result = handle();
    LIMIT.store(before, Relaxed);
    result
}
