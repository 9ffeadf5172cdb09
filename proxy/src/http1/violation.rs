//! Names for everything that is refused about the form of a message.

use thiserror::Error;

/// Why a message's bytes are refused. Shown as its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{}", self.label())]
pub enum Violation {
    BadMethod,
    MethodTooLong,
    BadTarget,
    TargetTooLong,
    Fragment,
    BadVersion,
    /// One that HTTP may have, and that is not spoken here.
    UnsupportedVersion,
    BareLf,
    BareCr,
    ControlByte,
    FoldedLine,
    BadFieldName,
    BlankBeforeColon,
    NoColon,
    HeadTooLarge,
    TooManyFields,
    BadContentLength,
    RepeatedContentLength,
    BadTransferEncoding,
    LengthAndEncoding,
    BadChunkSize,
    BadChunkExtension,
    ChunkExtensionsTooLong,
    BadChunkEnd,
    FramingInTrailers,
    HeadFieldInTrailers,
}

impl Violation {
    /// A short stable word for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Violation::BadMethod => "bad_method",
            Violation::MethodTooLong => "method_too_long",
            Violation::BadTarget => "bad_target",
            Violation::TargetTooLong => "target_too_long",
            Violation::Fragment => "fragment",
            Violation::BadVersion => "bad_version",
            Violation::UnsupportedVersion => "unsupported_version",
            Violation::BareLf => "bare_lf",
            Violation::BareCr => "bare_cr",
            Violation::ControlByte => "control_byte",
            Violation::FoldedLine => "folded_line",
            Violation::BadFieldName => "bad_field_name",
            Violation::BlankBeforeColon => "blank_before_colon",
            Violation::NoColon => "no_colon",
            Violation::HeadTooLarge => "head_too_large",
            Violation::TooManyFields => "too_many_fields",
            Violation::BadContentLength => "bad_content_length",
            Violation::RepeatedContentLength => "repeated_content_length",
            Violation::BadTransferEncoding => "bad_transfer_encoding",
            Violation::LengthAndEncoding => "length_and_encoding",
            Violation::BadChunkSize => "bad_chunk_size",
            Violation::BadChunkExtension => "bad_chunk_extension",
            Violation::ChunkExtensionsTooLong => "chunk_extensions_too_long",
            Violation::BadChunkEnd => "bad_chunk_end",
            Violation::FramingInTrailers => "framing_in_trailers",
            Violation::HeadFieldInTrailers => "head_field_in_trailers",
        }
    }
}
