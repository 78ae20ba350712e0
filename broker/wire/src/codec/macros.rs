//! One declaration per struct becomes the struct, its defaults, its decoder and its encoder.
//!
//! ```text
//! messages! {
//!     /// Documentation.
//!     struct Name {
//!         field: Type;                                 in all versions, default of the type
//!         field: Type = -1, in 3..=5;                  in versions 3 to 5, default -1
//!         field: Option<Type>, null 1..;               null is allowed from version 1
//!         field: Type, in 12.., tag 0;                 a tagged field
//!     }
//! }
//! api_messages!(Produce: ProduceRequest => ProduceResponse);
//! ```
//!
//! Fields are in the order of the wire, tagged fields in the order of their tags. Whether a version is flexible and
//! which versions exist is not said here: [`crate::ApiKey`] knows.

/// The version range of a field; all versions when none is given.
macro_rules! field_range {
    ($version:ident) => {
        true
    };
    ($version:ident $range:expr) => {
        ($range).contains(&$version.number)
    };
}

/// The tag of a field, if it has one.
macro_rules! field_tag {
    () => {
        None::<u32>
    };
    ($tag:literal) => {
        Some($tag)
    };
}

macro_rules! field_default {
    () => {
        Default::default()
    };
    ($default:expr) => {
        $default
    };
}

macro_rules! field_min_bytes {
    ($type:ty, $version:ident) => {
        <$type as $crate::codec::Wire>::min_bytes($version)
    };
    ($type:ty, $version:ident $null:expr) => {
        if ($null).contains(&$version.number) {
            <$type as $crate::codec::Wire>::min_bytes($version)
        } else {
            <$type as $crate::codec::OptionalWire>::present_min_bytes($version)
        }
    };
}

macro_rules! field_read {
    ($type:ty, $reader:ident, $version:ident) => {
        <$type as $crate::codec::Wire>::read($reader, $version)
    };
    ($type:ty, $reader:ident, $version:ident $null:expr) => {
        if ($null).contains(&$version.number) {
            <$type as $crate::codec::Wire>::read($reader, $version)
        } else {
            <$type as $crate::codec::OptionalWire>::read_present($reader, $version)
        }
    };
}

macro_rules! field_write {
    ($value:expr, $writer:ident, $version:ident) => {
        $crate::codec::Wire::write($value, $writer, $version)
    };
    ($value:expr, $writer:ident, $version:ident $null:expr) => {
        if ($null).contains(&$version.number) {
            $crate::codec::Wire::write($value, $writer, $version)
        } else {
            $crate::codec::OptionalWire::write_present($value, $writer, $version)
        }
    };
}

macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        struct $name:ident {$(
            $(#[$field_meta:meta])*
            $field:ident: $type:ty $(= $default:expr)? $(, in $range:expr)? $(, null $null:expr)? $(, tag $tag:literal)?;
        )*}
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::codec::macros::field_default!($($default)?),)* }
            }
        }

        impl $crate::codec::Wire for $name {
            fn min_bytes(version: $crate::codec::Version) -> usize {
                use $crate::codec::macros::{field_min_bytes, field_range, field_tag};
                let mut bytes = usize::from(version.flexible);
                $(
                    if field_tag!($($tag)?).is_none() && field_range!(version $($range)?) {
                        bytes += field_min_bytes!($type, version $($null)?);
                    }
                )*
                bytes
            }

            #[allow(unused_mut, unused_variables, unused_assignments, reason = "structs without tagged fields")]
            fn read(
                reader: &mut $crate::codec::Reader,
                version: $crate::codec::Version,
            ) -> Result<Self, $crate::codec::DecodeError> {
                use $crate::codec::macros::{field_default, field_range, field_read, field_tag};
                $(
                    let mut $field: $type = if field_tag!($($tag)?).is_none() && field_range!(version $($range)?) {
                        field_read!($type, reader, version $($null)?)
                            .map_err(|error| error.at(concat!(stringify!($name), ".", stringify!($field))))?
                    } else {
                        field_default!($($default)?)
                    };
                )*
                if version.flexible {
                    reader.tagged_fields(|tag, reader| {
                        $(
                            if field_tag!($($tag)?) == Some(tag) && field_range!(version $($range)?) {
                                $field = field_read!($type, reader, version $($null)?)
                                    .map_err(|error| error.at(concat!(stringify!($name), ".", stringify!($field))))?;
                                return Ok(true);
                            }
                        )*
                        Ok(false)
                    }).map_err(|error| error.at(concat!(stringify!($name), " (tagged fields)")))?;
                }
                Ok(Self { $($field,)* })
            }

            #[allow(unused_variables, unused_mut, reason = "structs without tagged fields")]
            fn write(&self, writer: &mut $crate::codec::Writer, version: $crate::codec::Version) {
                use $crate::codec::macros::{field_default, field_range, field_tag, field_write};
                $(
                    if field_tag!($($tag)?).is_none() && field_range!(version $($range)?) {
                        field_write!(&self.$field, writer, version $($null)?);
                    }
                )*
                if !version.flexible {
                    return;
                }
                let mut tagged = 0;
                $(
                    if field_tag!($($tag)?).is_some() && field_range!(version $($range)?) {
                        let default: $type = field_default!($($default)?);
                        tagged += u32::from(self.$field != default);
                    }
                )*
                writer.uvarint(tagged);
                if tagged == 0 {
                    return;
                }
                $(
                    if let Some(tag) = field_tag!($($tag)?)
                        && field_range!(version $($range)?)
                    {
                        let default: $type = field_default!($($default)?);
                        if self.$field != default {
                            writer.tagged_field(tag, |writer| field_write!(&self.$field, writer, version $($null)?));
                        }
                    }
                )*
            }
        }

        impl $crate::codec::NullableWire for $name {
            fn nullable_min_bytes(_: $crate::codec::Version) -> usize {
                1
            }

            fn read_nullable(
                reader: &mut $crate::codec::Reader,
                version: $crate::codec::Version,
            ) -> Result<Option<Self>, $crate::codec::DecodeError> {
                if <i8 as $crate::codec::Wire>::read(reader, version)? < 0 {
                    return Ok(None);
                }
                <Self as $crate::codec::Wire>::read(reader, version).map(Some)
            }

            fn write_nullable(
                value: Option<&Self>,
                writer: &mut $crate::codec::Writer,
                version: $crate::codec::Version,
            ) {
                use $crate::codec::Wire as _;
                match value {
                    Some(value) => {
                        1_i8.write(writer, version);
                        value.write(writer, version);
                    }
                    None => (-1_i8).write(writer, version),
                }
            }
        }
    )*};
}

/// Makes two structs the request and the response of an API.
macro_rules! api_messages {
    ($key:ident: $request:ident => $response:ident) => {
        impl $crate::codec::Message for $request {
            const NAME: &'static str = stringify!($request);
            const VERSIONS: std::ops::RangeInclusive<i16> = $crate::ApiKey::$key.versions();
            const FLEXIBLE_FROM: i16 = $crate::ApiKey::$key.flexible_from();
        }

        impl $crate::codec::Message for $response {
            const NAME: &'static str = stringify!($response);
            const VERSIONS: std::ops::RangeInclusive<i16> = $crate::ApiKey::$key.versions();
            const FLEXIBLE_FROM: i16 = $crate::ApiKey::$key.flexible_from();
        }

        impl $crate::codec::Request for $request {
            const KEY: $crate::ApiKey = $crate::ApiKey::$key;
            type Response = $response;
        }
    };
}

/// Makes a struct a record of an internal topic, with versions of its own.
macro_rules! record_message {
    ($name:ident: $versions:expr, flexible $flexible:expr) => {
        impl $crate::codec::Message for $name {
            const NAME: &'static str = stringify!($name);
            const VERSIONS: std::ops::RangeInclusive<i16> = $versions;
            const FLEXIBLE_FROM: i16 = $flexible;
        }
    };
}

pub(crate) use {
    api_messages, field_default, field_min_bytes, field_range, field_read, field_tag, field_write, messages,
    record_message,
};
