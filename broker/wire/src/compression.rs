//! Compression of the records of a batch: gzip, snappy (Xerial framing or raw), LZ4 frames, Zstandard.
//!
//! Batches are stored and sent as they came; this is for what must look inside (produce counts the records, offsets are
//! found by timestamp) and for tests. Output is bounded by the caller's limit, never by what the input claims.

use std::io::{self, Read, Write};

use bytes::Bytes;
use chronik_model::batch::Compression;

/// Records that cannot be (de)compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// They would become larger than allowed.
    #[error("records decompress to more than {limit} bytes")]
    TooLarge {
        /// The most that is allowed.
        limit: usize,
    },
    /// They are not what their type says.
    #[error("malformed {codec:?} data: {source}")]
    Malformed {
        /// The type.
        codec: Compression,
        /// What the decoder says.
        source: io::Error,
    },
}

const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Magic, version, oldest compatible version.
const XERIAL_HEADER: usize = 16;
/// Snappy's own block size in Java's framing.
const XERIAL_BLOCK: usize = 32 * 1024;

/// Decompresses `input` to at most `limit` bytes. Uncompressed input is returned as it is.
///
/// # Errors
/// [`CompressionError`].
pub fn decompress(codec: Compression, input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    let malformed = |source| CompressionError::Malformed { codec, source };
    match codec {
        Compression::None if input.len() > limit => Err(CompressionError::TooLarge { limit }),
        Compression::None => Ok(input.clone()),
        Compression::Gzip => read_all(codec, flate2::read::MultiGzDecoder::new(&input[..]), limit),
        Compression::Lz4 => read_all(codec, lz4_flex::frame::FrameDecoder::new(&input[..]), limit),
        Compression::Zstd => {
            read_all(codec, zstd::stream::read::Decoder::with_buffer(&input[..]).map_err(malformed)?, limit)
        }
        Compression::Snappy => snappy(input, limit),
    }
}

/// The decompressed bytes of `input` as a stream, so that they can be looked at without being held. Snappy, which has no
/// streams, is decompressed at once, to at most `limit` bytes; the caller bounds the others.
///
/// # Errors
/// [`CompressionError`]; reading may end in an error as well.
pub(crate) fn stream<'a>(
    codec: Compression,
    input: &'a [u8],
    limit: usize,
) -> Result<Box<dyn Read + 'a>, CompressionError> {
    let malformed = |source| CompressionError::Malformed { codec, source };
    Ok(match codec {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(malformed)?),
        Compression::Snappy => Box::new(io::Cursor::new(snappy(input, limit)?)),
    })
}

fn read_all(codec: Compression, decoder: impl Read, limit: usize) -> Result<Bytes, CompressionError> {
    let mut output = Vec::new();
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut output)
        .map_err(|source| CompressionError::Malformed { codec, source })?;
    if output.len() > limit {
        return Err(CompressionError::TooLarge { limit });
    }
    Ok(output.into())
}

fn snappy(input: &[u8], limit: usize) -> Result<Bytes, CompressionError> {
    let mut output = Vec::new();
    if !input.starts_with(XERIAL_MAGIC) {
        snappy_block(input, limit, &mut output)?;
        return Ok(output.into());
    }
    let mut rest = input.get(XERIAL_HEADER..).ok_or_else(cut_short)?;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| cut_short())?;
        let (block, tail) = tail.split_at_checked(length).ok_or_else(cut_short)?;
        snappy_block(block, limit, &mut output)?;
        rest = tail;
    }
    if rest.is_empty() { Ok(output.into()) } else { Err(cut_short()) }
}

fn cut_short() -> CompressionError {
    CompressionError::Malformed { codec: Compression::Snappy, source: io::ErrorKind::UnexpectedEof.into() }
}

/// Appends one raw block. Snappy makes at most 64 bytes of 3, so a claim beyond that is not believed.
fn snappy_block(block: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let malformed = |error: snap::Error| CompressionError::Malformed {
        codec: Compression::Snappy,
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    };
    let claimed = snap::raw::decompress_len(block).map_err(malformed)?;
    if claimed > limit - output.len() {
        return Err(CompressionError::TooLarge { limit });
    }
    if claimed > block.len().saturating_mul(64) {
        return Err(cut_short());
    }
    let start = output.len();
    output.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut output[start..]).map_err(malformed)?;
    output.truncate(start + written);
    Ok(())
}

/// Compresses `input` with the default level, as Java clients frame it.
///
/// # Errors
/// [`CompressionError::Malformed`] with what the encoder says; none is known to happen in memory.
pub fn compress(codec: Compression, input: &[u8]) -> Result<Bytes, CompressionError> {
    let malformed = |source| CompressionError::Malformed { codec, source };
    match codec {
        Compression::None => Ok(Bytes::copy_from_slice(input)),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(input).and_then(|()| encoder.finish()).map(Bytes::from).map_err(malformed)
        }
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder
                .write_all(input)
                .and_then(|()| encoder.finish().map_err(io::Error::other))
                .map(Bytes::from)
                .map_err(malformed)
        }
        Compression::Zstd => zstd::stream::encode_all(input, 0).map(Bytes::from).map_err(malformed),
        Compression::Snappy => {
            let mut output = XERIAL_MAGIC.to_vec();
            output.extend_from_slice(&1_i32.to_be_bytes());
            output.extend_from_slice(&1_i32.to_be_bytes());
            for chunk in input.chunks(XERIAL_BLOCK) {
                let block =
                    snap::raw::Encoder::new().compress_vec(chunk).map_err(|e| malformed(io::Error::other(e)))?;
                output.extend_from_slice(&(block.len() as i32).to_be_bytes());
                output.extend_from_slice(&block);
            }
            Ok(output.into())
        }
    }
}
