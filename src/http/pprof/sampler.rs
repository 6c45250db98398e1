//! Where CPU time goes: a stack for every 10 ms of CPU time that the process uses.
//!
//! A timer of the kernel counts the CPU time of all threads and signals the one that runs when it is up. The handler notes
//! the instruction that was interrupted and follows the frame pointers from there, which all of this program is built with
//! (`.cargo/config.toml`): no unwinder runs inside a handler. It reads the stack through `/proc/self/mem`, so that a wrong
//! pointer is an answer of the kernel and not the end of the process. It takes no lock and no memory: what it notes goes
//! into a fixed number of words, which cost nothing until they are written.
//!
//! The crate `pprof` does the same and leaves out the function that was running: its stacks begin with the caller.
//!
//! A library in C may use the register of the frame pointer for something else; its stacks end there, at addresses that
//! are no code.

#![expect(
    unsafe_code,
    reason = "timers, handlers of signals, and the registers of what they interrupt, have no safe interface"
)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::hint::spin_loop;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use libc::{c_int, c_void, siginfo_t};

/// CPU time for each stack.
pub(super) const PERIOD: Duration = Duration::from_millis(10);

/// Frames of one stack; what lies further out is left out. Stacks of the operator have 30 to 60.
const DEPTH: usize = 128;

/// Words for all stacks: 8 MiB, enough for two cores that are busy for two minutes.
const CAPACITY: usize = 1 << 20;

/// Each stack with its length before it. Read only after the handler has ended everywhere.
static WORDS: [AtomicUsize; CAPACITY] = [const { AtomicUsize::new(0) }; CAPACITY];
/// Words that are taken, and more than there are once they are not enough.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// Stacks for which there was no room.
static LOST: AtomicUsize = AtomicUsize::new(0);
/// Threads inside the handler.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Whether the handler notes anything.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Whether there is a [`Sampling`].
static BUSY: AtomicBool = AtomicBool::new(false);
static SPACE: OnceLock<Space> = OnceLock::new();

/// Why no stacks can be noted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SamplingError {
    /// The timer belongs to the whole process.
    #[error("another one is being taken; try again when it is over")]
    Busy,
    /// The system does not let us.
    #[error("the system refuses the timer, its signal or /proc/self")]
    Refused(#[from] io::Error),
}

/// What was noted.
#[derive(Debug)]
pub(super) struct Samples {
    /// Addresses behind calls, innermost first, and how often that stack was seen.
    pub(super) stacks: HashMap<Vec<usize>, u32>,
    /// Stacks for which there was no room.
    pub(super) lost: usize,
}

/// Notes stacks until it is finished or dropped. There is one in the process at most.
#[derive(Debug)]
pub(super) struct Sampling(());

impl Sampling {
    /// Starts to note stacks.
    pub(super) fn start() -> Result<Self, SamplingError> {
        if BUSY.swap(true, SeqCst) {
            return Err(SamplingError::Busy);
        }
        // From here on a failure ends what was begun.
        let this = Self(());
        if SPACE.get().is_none() {
            let _ = SPACE.set(Space::open()?); // nobody else is here
        }
        TAKEN.store(0, SeqCst);
        LOST.store(0, SeqCst);
        handle_signal()?;
        ARMED.store(true, SeqCst);
        set_timer(PERIOD)?;
        Ok(this)
    }

    /// Ends it and returns what was noted.
    pub(super) fn finish(self) -> Samples {
        disarm();
        let taken = TAKEN.load(SeqCst).min(CAPACITY);
        let mut words = WORDS.iter().take(taken).map(|word| word.load(SeqCst));
        let mut stacks: HashMap<Vec<usize>, u32> = HashMap::new();
        while let Some(depth @ 1..) = words.next() {
            *stacks.entry(words.by_ref().take(depth).collect()).or_default() += 1;
        }
        let samples = Samples { stacks, lost: LOST.load(SeqCst) };
        // Only now may the next one write over them.
        drop(self);
        samples
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        disarm();
        BUSY.store(false, SeqCst);
    }
}

/// Ends the timer and waits until no thread is inside the handler. The handler stays: a late signal would otherwise end
/// the process, and so it finds nothing to do.
fn disarm() {
    let _ = set_timer(Duration::ZERO); // no timer, no signal; and with one, nothing is noted
    ARMED.store(false, SeqCst);
    while INSIDE.load(SeqCst) > 0 {
        spin_loop();
    }
}

fn set_timer(period: Duration) -> io::Result<()> {
    let period = libc::timeval { tv_sec: 0, tv_usec: period.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: period, it_value: period };
    // SAFETY: the kernel reads the one struct, and is given no place to write the old one to.
    succeeded(unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) })
}

fn handle_signal() -> io::Result<()> {
    // SAFETY: all zeros are a valid value: no flags, no signals blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // Calls that wait go on behind the signal.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    action.sa_sigaction = tick as *const () as usize;
    // SAFETY: with SA_SIGINFO the handler has three arguments, as ours does, and ours calls only what may be called there.
    succeeded(unsafe { libc::sigaction(libc::SIGPROF, &raw const action, ptr::null_mut()) })
}

fn succeeded(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Handles the signal, on the thread that it interrupted.
extern "C" fn tick(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    INSIDE.fetch_add(1, SeqCst);
    // SAFETY: the place of this thread's errno, which what was interrupted may be about to read.
    let (errno, before) = unsafe { (libc::__errno_location(), *libc::__errno_location()) };
    // SAFETY: the kernel hands over what it will restore the registers from.
    let registers = unsafe { context.cast::<libc::ucontext_t>().as_ref() }.and_then(Registers::of);
    if ARMED.load(SeqCst)
        && let (Some(space), Some(registers)) = (SPACE.get(), registers)
    {
        let mut stack = [0; DEPTH];
        let depth = space.walk(&registers, &mut stack);
        note(stack.into_iter().take(depth), depth);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
    INSIDE.fetch_sub(1, SeqCst);
}

fn note(stack: impl Iterator<Item = usize>, depth: usize) {
    let at = TAKEN.fetch_add(depth + 1, SeqCst);
    let Some(place) = WORDS.get(at..at + depth + 1) else {
        // Whoever comes later fits even less: the end is here.
        if let Some(end) = WORDS.get(at) {
            end.store(0, SeqCst);
        }
        LOST.fetch_add(1, SeqCst);
        return;
    };
    for (word, value) in place.iter().zip(std::iter::once(depth).chain(stack)) {
        word.store(value, SeqCst);
    }
}

/// Where a thread was interrupted.
struct Registers {
    /// The next instruction.
    code: usize,
    /// The end of the stack.
    stack: usize,
    /// The frame of the function.
    frame: usize,
    /// Where a function without a frame returns to, on machines that keep that in a register.
    link: Option<usize>,
}

impl Registers {
    #[cfg(target_arch = "x86_64")]
    fn of(context: &libc::ucontext_t) -> Option<Self> {
        let register = |index: c_int| {
            let value = context.uc_mcontext.gregs.get(usize::try_from(index).ok()?)?;
            usize::try_from(value.cast_unsigned()).ok()
        };
        Some(Self {
            code: register(libc::REG_RIP)?,
            stack: register(libc::REG_RSP)?,
            frame: register(libc::REG_RBP)?,
            link: None,
        })
    }

    #[cfg(target_arch = "aarch64")]
    fn of(context: &libc::ucontext_t) -> Option<Self> {
        let machine = &context.uc_mcontext;
        let register = |index: usize| usize::try_from(*machine.regs.get(index)?).ok();
        Some(Self {
            code: usize::try_from(machine.pc).ok()?,
            stack: usize::try_from(machine.sp).ok()?,
            frame: register(29)?,
            link: register(30),
        })
    }
}

/// What the handler has to know of the memory of the process.
#[derive(Debug)]
struct Space {
    memory: File,
    /// Where code lies, ours and that of libraries.
    code: Vec<Range<usize>>,
}

impl Space {
    fn open() -> io::Result<Self> {
        let maps = fs::read_to_string("/proc/self/maps")?;
        let code = maps.lines().filter_map(code).map(|code| code.range).collect();
        Ok(Self { memory: File::open("/proc/self/mem")?, code })
    }

    /// Writes down a stack, innermost first, and returns its depth.
    fn walk(&self, registers: &Registers, stack: &mut [usize; DEPTH]) -> usize {
        let mut places = stack.iter_mut();
        let mut depth = 0;
        let mut push = |address| {
            let place = places.next();
            depth += usize::from(place.is_some());
            place.map(|place| *place = address).is_some()
        };
        // All others are addresses behind calls, and whoever reads a stack takes one off each.
        push(registers.code.saturating_add(1));
        // A function of the C library that copies memory, or asks the kernel, seldom makes a frame: without this the one
        // that called it would be missing.
        if !self.is_ours(registers.code)
            && let Some(caller) = registers.link.or_else(|| self.read(registers.stack).map(|[caller, _]| caller))
            && self.is_ours(caller)
        {
            push(caller);
        }
        // The stack grows downwards: each frame lies above the one that it called, so that this ends.
        let (mut frame, mut above) = (registers.frame, registers.stack);
        while frame >= above
            && frame.is_multiple_of(align_of::<usize>())
            && let Some([outer, caller]) = self.read(frame)
            && self.find(caller).is_some()
            && push(caller)
        {
            (frame, above) = (outer, frame.saturating_add(1));
        }
        depth
    }

    /// Reads two words, or nothing where there is no memory.
    fn read(&self, address: usize) -> Option<[usize; 2]> {
        let mut bytes = [[0; size_of::<usize>()]; 2];
        let all = bytes.as_flattened_mut();
        let read = self.memory.read_at(all, u64::try_from(address).ok()?).ok()?;
        (read == all.len()).then(|| bytes.map(usize::from_ne_bytes))
    }

    fn find(&self, address: usize) -> Option<&Range<usize>> {
        self.code.iter().find(|range| range.contains(&address))
    }

    /// Tells whether an address is code of the program and not of a library.
    fn is_ours(&self, address: usize) -> bool {
        self.find(address).is_some_and(|range| range.contains(&(tick as *const () as usize)))
    }
}

/// Code in memory, and the file that it comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Code<'a> {
    /// Where it lies.
    pub(super) range: Range<usize>,
    /// Where it begins in the file.
    pub(super) offset: usize,
    /// The file; empty, or a name in brackets, for what has none.
    pub(super) file: &'a str,
}

/// Reads a line of `/proc/self/maps`: `start-end rights offset device inode file`.
pub(super) fn code(line: &str) -> Option<Code<'_>> {
    let mut words = line.split_ascii_whitespace();
    let ((start, end), rights, offset) = (words.next()?.split_once('-')?, words.next()?, words.next()?);
    let number = |text| usize::from_str_radix(text, 16).ok();
    let code =
        Code { range: number(start)?..number(end)?, offset: number(offset)?, file: words.nth(2).unwrap_or_default() };
    rights.starts_with("r-x").then_some(code)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    /// Keeps a core busy, in a function of its own that calls nothing.
    #[inline(never)]
    fn spin(rounds: u64) -> u64 {
        let (mut round, mut x) = (0, 88_172_645_463_325_252_u64);
        while round < rounds {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            round += 1;
        }
        x
    }

    /// The process has one timer, and the tests of one binary run side by side.
    fn start() -> Sampling {
        loop {
            match Sampling::start() {
                Err(SamplingError::Busy) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    #[test]
    fn a_stack_begins_with_the_function_that_runs_and_goes_on_with_its_callers() {
        let sampling = start();
        assert!(matches!(Sampling::start(), Err(SamplingError::Busy)));
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            black_box(spin(black_box(100_000)));
        }
        let samples = sampling.finish();
        let begin = spin as *const () as usize;
        let here = |address: &usize| (begin..begin + 1_000).contains(address);
        let in_spin: Vec<_> = samples.stacks.keys().filter(|stack| stack.first().is_some_and(here)).collect();
        assert!(!in_spin.is_empty() && samples.lost == 0, "{samples:?}");
        assert!(in_spin.iter().all(|stack| stack.len() > 3), "frame pointers are missing: {in_spin:?}");
    }

    #[test]
    fn a_wrong_pointer_ends_the_stack_and_not_the_process() {
        let space = Space::open().unwrap();
        let code = tick as *const () as usize;
        for (stack, frame) in [(0, 0), (8, 8), (0, 1), (usize::MAX - 64, usize::MAX - 7), (usize::MAX, 0)] {
            let registers = Registers { code, stack, frame, link: None };
            assert_eq!(space.walk(&registers, &mut [0; DEPTH]), 1, "{stack:x} {frame:x}");
        }
    }

    #[test]
    fn code_is_what_may_run_and_not_be_written() {
        let ours = Code { range: 0x55d0..0x55e0, offset: 0x1000, file: "/kollect" };
        assert_eq!(code("55d0-55e0 r-xp 00001000 fd:00 1    /kollect"), Some(ours));
        assert_eq!(code("7ff0-7ff8 r-xp 00000000 00:00 0").unwrap().file, "");
        assert_eq!(code("55e0-55f0 rw-p 00000000 fd:00 1 /kollect"), None);
        assert_eq!(code("nonsense"), None);
    }
}
