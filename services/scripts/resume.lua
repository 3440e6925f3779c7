-- Let a paused job wait for a worker again, or take back the wish to pause it.
-- ARGV: id
-- Returns the status it has now, or '' if there is no such job.
go_on_without_memory()
local status = get(ARGV[1], 'status')
if status == 'running' and get(ARGV[1], 'wish') == 'pause' then
  redis.call('HDEL', JOB .. ARGV[1], 'wish')
end
if status == 'paused' then enqueue(ARGV[1]) end
return get(ARGV[1], 'status') or ''
