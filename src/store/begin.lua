-- Starts a new epoch unless the namespace is whole (another proxy may have started one meanwhile).
-- Returns epoch, last sequence issued, cause ('' if nothing was started).
local meta, cause = valid_epoch()
return { meta.epoch, text(meta.seq), cause }
