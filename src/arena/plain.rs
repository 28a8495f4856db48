//! What may live in an arena.

/// Plain old data that a fresh, zeroed page already is a value of.
///
/// # Safety
/// The implementer promises that
/// - `size_of::<Self>()` zero bytes are a valid value;
/// - [`Plain::is_valid`] is true only for bytes that are a valid value;
/// - a value holds no pointer, reference or handle: it means the same in
///   another process;
/// - its alignment is at most [`super::HEADER_BYTES`].
pub unsafe trait Plain: Copy + Send + 'static {
    /// Raised whenever the layout or the meaning of a field changes.
    const LAYOUT_VERSION: u32;

    /// Whether `bytes`, `size_of::<Self>()` of them, are a valid value.
    fn is_valid(bytes: &[u8]) -> bool;
}
