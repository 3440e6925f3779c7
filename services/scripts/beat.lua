-- A worker's sign of life: renews the lease, records progress, says whether to go on.
-- ARGV: id, fence, lease ms, progress as JSON or '', preview step or '', checkpoint name or ''
-- Returns 'ok', 'lost', 'late' or what is wished for: 'cancel', 'pause', 'release'.
go_on_without_memory()
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 'lost' end
local at = now()
redis.call('ZADD', RUNNING, at + ARGV[3], id)
if ARGV[4] ~= '' then
  redis.call('HSET', JOB .. id, 'progress', ARGV[4])
  tell(id, 'progress', ARGV[4])
end
if ARGV[5] ~= '' then
  redis.call('HSET', JOB .. id, 'preview_step', ARGV[5])
  redis.call('ZADD', JOB .. id .. ':previews', ARGV[5], ARGV[2] .. '-' .. ARGV[5])
  tell(id, 'preview', cjson.encode({step = tonumber(ARGV[5]),
    url = '/v1/jobs/' .. id .. '/previews/' .. ARGV[5]}))
end
-- a job that gets further is not poison, however often its workers die
if ARGV[6] ~= '' then redis.call('HSET', JOB .. id, 'checkpoint', ARGV[6], 'failures', 0) end
if is_late(id, at) then return 'late' end
return get(id, 'wish') or get(id, 'release') or 'ok'
