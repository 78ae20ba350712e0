//! InitProducerId: Hands out producer ids and epochs.

use crate::KString;
use crate::codec::{api_messages, messages};

api_messages!(InitProducerId: InitProducerIdRequest => InitProducerIdResponse);

messages! {
    /// The request.
    struct InitProducerIdRequest {
        transactional_id: Option<KString>, null 0..;
        transaction_timeout_ms: i32;
        producer_id: i64 = -1, in 3..;
        producer_epoch: i16 = -1, in 3..;
    }

    /// The response.
    struct InitProducerIdResponse {
        throttle_time_ms: i32;
        error_code: i16;
        producer_id: i64 = -1;
        producer_epoch: i16;
    }
}
