//! The wire format of protocol buffers, as far as reading needs it. Errors name the byte of the file.

use tokenizers::Result;

/// The bytes of a message and where in the file they begin.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    start: usize,
}

/// A field of a message as it stands in the file.
pub(super) struct Field<'a> {
    pub(super) number: u64,
    value: Value<'a>,
    at: usize,
}

enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(Message<'a>),
}

impl<'a> Message<'a> {
    pub(super) fn of_file(bytes: &'a [u8]) -> Self {
        Self { bytes, start: 0 }
    }

    /// The next field, which is taken off the message; nothing at its end.
    pub(super) fn next_field(&mut self) -> Result<Option<Field<'a>>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let at = self.start;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = self.varint()?;
                let start = self.start;
                // A length beyond the address space is beyond the file as well.
                Value::Bytes(Message { bytes: self.take(usize::try_from(length).unwrap_or(usize::MAX))?, start })
            }
            5 => Value::Fixed32(self.take(4)?.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte))),
            other => return Err(format!("byte {at}: wire type {other} is none of a SentencePiece model").into()),
        };
        Ok(Some(Field { number: tag >> 3, value, at }))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(length) else {
            let left = self.bytes.len();
            return Err(format!("byte {}: {length} bytes are announced, but {left} are left", self.start).into());
        };
        (self.bytes, self.start) = (rest, self.start + length);
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let at = self.start;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("byte {at}: a number of more than ten bytes").into())
    }
}

impl<'a> Field<'a> {
    pub(super) fn message(&self) -> Result<Message<'a>> {
        match self.value {
            Value::Bytes(message) => Ok(message),
            _ => Err(self.unfit("bytes")),
        }
    }

    pub(super) fn bytes(&self) -> Result<&'a [u8]> {
        Ok(self.message()?.bytes)
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.unfit("UTF-8"))
    }

    pub(super) fn float(&self) -> Result<f32> {
        match self.value {
            Value::Fixed32(bits) => Ok(f32::from_bits(bits)),
            _ => Err(self.unfit("a float")),
        }
    }

    /// A number of 32 bits, which stands in the file sign-extended to 64.
    pub(super) fn int(&self) -> Result<i32> {
        match self.value {
            Value::Varint(value) => Ok(value as i32),
            _ => Err(self.unfit("a number")),
        }
    }

    pub(super) fn flag(&self) -> Result<bool> {
        Ok(self.int()? != 0)
    }

    fn unfit(&self, expected: &str) -> tokenizers::Error {
        format!("byte {}: field {} is not {expected}", self.at, self.number).into()
    }
}
