-- Starts a new epoch unless the namespace is whole (another proxy may have started one meanwhile).
-- Returns epoch, last sequence issued, cause ('' if nothing was started).
local meta, cause = valid_epoch()
-- Nobody reads this; a user that may not speak in the channel is found out here, when Larder connects.
redis.call('PUBLISH', CHANNEL, '')
return { meta.epoch, text(meta.seq), cause }
