//! What the demo's processes send each other, and what the stage makes of it.

/// Symbols that are traded.
pub const SYMBOLS: u32 = 256;
/// Prices that an average is over.
const WINDOW: usize = 32;

/// A trade, from the source.
#[bus_client::message]
#[derive(Debug)]
pub struct Tick {
    /// Counts ticks from 0.
    pub number: u64,
    /// When it was due, by the monotonic clock.
    pub due_ns: u64,
    /// Whether no other follows.
    pub last: bool,
    pub symbol: u32,
    pub size: u32,
    pub price: f64,
    pub venue: String,
}

/// What the stage concludes from a tick and those before it.
#[bus_client::message]
#[derive(Debug, Default)]
pub struct Signal {
    /// The tick's.
    pub number: u64,
    /// The tick's.
    pub due_ns: u64,
    /// The tick's.
    pub last: bool,
    pub symbol: u32,
    /// Of the last 32 prices, weighted by size.
    pub average: f64,
    /// The price in standard deviations from the plain average.
    pub distance: f64,
    pub venue: String,
}

/// The last prices of one symbol.
#[derive(Clone, Default)]
struct Window {
    trades: [(f64, f64); WINDOW],
    next: usize,
}

/// The last prices of all symbols.
pub struct Averages {
    windows: Vec<Window>,
}

impl Averages {
    /// No prices yet.
    pub fn new() -> Self {
        Self {
            windows: vec![Window::default(); SYMBOLS as usize],
        }
    }

    /// Takes a tick in and says what it means, in place of an earlier signal. None for a symbol that is not traded.
    pub fn signal(&mut self, tick: &ArchivedTick, signal: &mut Signal) -> Option<()> {
        let symbol = tick.symbol.to_native();
        let window = self.windows.get_mut(symbol as usize)?;
        let (price, size) = (tick.price.to_native(), f64::from(tick.size.to_native()));
        window.trades[window.next] = (price, size);
        window.next = (window.next + 1) % WINDOW;

        let (mut turnover, mut volume, mut sum, mut squares) = (0.0, 0.0, 0.0, 0.0);
        for (price, size) in window.trades {
            turnover += price * size;
            volume += size;
            sum += price;
            squares += price * price;
        }
        let plain = sum / WINDOW as f64;
        let deviation = (squares / WINDOW as f64 - plain * plain).max(0.0).sqrt();
        signal.number = tick.number.to_native();
        signal.due_ns = tick.due_ns.to_native();
        signal.last = tick.last;
        signal.symbol = symbol;
        signal.average = turnover / volume.max(1.0);
        signal.distance = if deviation > 0.0 {
            (price - plain) / deviation
        } else {
            0.0
        };
        signal.venue.clear();
        signal.venue.push_str(&tick.venue);
        Some(())
    }
}
