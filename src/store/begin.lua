-- Starts a new epoch unless the namespace is complete (another proxy may have started one meanwhile).
-- Returns epoch, last sequence issued, cause ('' if nothing was started).
local meta, cause = valid_epoch()
-- No proxy reads this message. It shows on connecting whether the user may publish in the channel.
redis.call('PUBLISH', CHANNEL, '')
return { meta.epoch, text(meta.seq), cause }
